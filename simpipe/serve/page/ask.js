// What is asked with: a picture that was chosen, dropped or pasted, an id, or one of some items.

import * as api from "./api.js";
import { labelOf } from "./cards.js";
import { byId, make } from "./dom.js";
import { image } from "./pictures.js";

const PICKS = 18;
const SIDE = 2048, BYTES = 4 << 20; // larger pictures are made smaller before they are sent

/** A file as the server takes it: {name, base64, url}. Throws Refused where the browser cannot read it as a picture. */
export async function pictureOf(file) {
  let blob = file;
  try {
    const bitmap = await createImageBitmap(file);
    const factor = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    if (factor < 1 || file.size > BYTES || !["image/png", "image/jpeg"].includes(file.type)) {
      const canvas = Object.assign(document.createElement("canvas"), { width: Math.max(1, Math.round(bitmap.width * factor)), height: Math.max(1, Math.round(bitmap.height * factor)) });
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    }
    bitmap.close();
  } catch {
    throw new api.Refused({ message: `“${file.name || "what was given"}” cannot be read as a picture`, cure: "give a PNG or JPEG file", code: "no picture" });
  }
  return { name: file.name || "pasted picture", base64: await base64(blob), url: URL.createObjectURL(blob) };
}

const base64 = (blob) =>
  new Promise((done, failed) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(String(reader.result).split(",")[1]));
    reader.addEventListener("error", () => failed(reader.error));
    reader.readAsDataURL(blob);
  });

/** Listens for pictures: `take(file)` gets the first one that is chosen, dropped or pasted. */
export function onPicture(take) {
  const chosen = byId("file");
  chosen.addEventListener("change", () => {
    if (chosen.files.length) take(chosen.files[0]);
    chosen.value = "";
  });
  const fileIn = (data) => [...(data?.files ?? [])][0];
  const brings = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const veil = byId("dropping");
  let depth = 0;
  const show = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    veil.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => brings(event) && show(1));
  addEventListener("dragleave", (event) => brings(event) && show(-1));
  addEventListener("dragover", (event) => brings(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    show(0);
    if (!brings(event)) return;
    event.preventDefault();
    const file = fileIn(event.dataTransfer);
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = fileIn(event.clipboardData);
    if (file) take(file);
  });
}

/** Fills the list of items to pick from. */
export async function showPicks(about, { label, release, signal, ask }) {
  const found = await api.items({ limit: PICKS, label, release, signal });
  const list = byId("picks");
  list.classList.toggle("words", !about.pictures);
  list.replaceChildren(
    ...found.map((item) =>
      make(
        "li",
        {},
        make(
          "button",
          { type: "button", class: "pick", title: `${labelOf(item.label)}, ${item.id}`, "aria-label": `Ask with ${item.id}, label ${labelOf(item.label)}`, onclick: () => ask(item.id) },
          about.pictures ? make("span", { class: "what" }, image(api.picture(item.id, about.release), "")) : null,
          make("span", { class: "name" }, labelOf(item.label)),
          about.pictures ? null : make("span", { class: "id" }, item.id),
        ),
      ),
    ),
  );
  if (!found.length) list.append(make("li", { class: "missing" }, "No item has this label."));
}
