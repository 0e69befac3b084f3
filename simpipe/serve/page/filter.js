// A filter as it is typed, `country=de, price>=10`, to the JSON object that the server takes.

const OPERATORS = { ">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "^=": "prefix", "=": "" };
const PART = /^\s*(?:"((?:[^"\\]|\\.)*)"|([^=<>^,"|]+?))\s*(>=|<=|\^=|>|<|=)\s*/;
const VALUE = /^\s*(?:"((?:[^"\\]|\\.)*)"|([^,|"=<>]*?))\s*(?=[,|]|$)/;

export class Unreadable extends Error {}

/** The object, or null where nothing was typed. Throws Unreadable. */
export function parse(text) {
  const typed = text.trim();
  if (!typed) return null;
  if (typed.startsWith("{")) {
    try {
      return JSON.parse(typed);
    } catch (error) {
      throw new Unreadable(`the filter is not valid JSON: ${error.message}`);
    }
  }
  const found = {};
  let rest = typed;
  while (rest.trim()) {
    const part = PART.exec(rest);
    if (!part) throw new Unreadable(`the filter cannot be read at “${rest.trim().slice(0, 40)}”`);
    rest = rest.slice(part[0].length);
    const column = part[1] === undefined ? part[2].trim() : unquoted(part[1]);
    const values = [];
    do {
      if (values.length) rest = rest.slice(1);
      const value = VALUE.exec(rest);
      if (!value) throw new Unreadable(`the value of “${column}” cannot be read at “${rest.trim().slice(0, 40)}”`);
      if (value[1] === undefined && !value[2].trim()) throw new Unreadable(`“${column}” has no value; "" is the empty text`);
      values.push(value[1] === undefined ? typedValue(value[2], column) : unquoted(value[1]));
      rest = rest.slice(value[0].length);
    } while (rest.startsWith("|"));
    if (rest.startsWith(",")) rest = rest.slice(1);
    add(found, column, OPERATORS[part[3]], values);
  }
  return found;
}

function add(found, column, operator, values) {
  if (values.length > 1 && operator) throw new Unreadable(`“${column}” is compared with several values; only = takes them, as in ${column}=a|b`);
  const value = values.length > 1 ? { in: values } : operator ? { [operator]: operator === "prefix" ? String(values[0]) : values[0] } : values[0];
  const before = Object.hasOwn(found, column) ? found[column] : undefined;
  const isRange = (each) => each !== null && typeof each === "object" && !("in" in each);
  if (before === undefined) found[column] = value;
  else if (isRange(before) && isRange(value)) found[column] = { ...before, ...value };
  else throw new Unreadable(`“${column}” stands twice in the filter`);
}

const unquoted = (inner) => JSON.parse(`"${inner}"`);

function typedValue(text, column) {
  if (text === "null") return null;
  if (column === "label") return text; // labels are text, also those that look like numbers
  if (text === "true" || text === "false") return text === "true";
  return text !== "" && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : text;
}
