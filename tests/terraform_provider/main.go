// A stand-in for the Google provider: it knows the schemas of the resources that terraform/ uses (schema.json), and nothing else.
// With it `terraform validate` and `terraform test` with mocked resources run where the real provider cannot be had.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"log"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

//go:embed schema.json
var described []byte

// argument is "string", "map(string)", ... or ["block", {...}] for one block and ["blocks", {...}] for any number; "!" stands before
// what is required.
type argument struct {
	kind     string
	required bool
	inner    map[string]argument
}

type resource struct {
	Arguments map[string]argument `json:"arguments"`
	Computed  map[string]string   `json:"computed"`
}

func (a *argument) UnmarshalJSON(text []byte) error {
	parts := []any{&a.kind, &a.inner}
	if text[0] == '"' {
		text = append(append([]byte{'['}, text...), ']')
	}
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	a.kind, a.required = strings.TrimPrefix(a.kind, "!"), strings.HasPrefix(a.kind, "!")
	return nil
}

func typeOf(kind string) tftypes.Type {
	switch {
	case strings.HasPrefix(kind, "map("):
		return tftypes.Map{ElementType: typeOf(kind[len("map(") : len(kind)-1])}
	case strings.HasPrefix(kind, "list("):
		return tftypes.List{ElementType: typeOf(kind[len("list(") : len(kind)-1])}
	case kind == "number":
		return tftypes.Number
	case kind == "bool":
		return tftypes.Bool
	case kind == "dynamic":
		return tftypes.DynamicPseudoType
	}
	return tftypes.String
}

func blockOf(arguments map[string]argument, computed map[string]string, top bool) *tfprotov5.SchemaBlock {
	block := &tfprotov5.SchemaBlock{}
	for name, a := range arguments {
		if a.kind != "block" && a.kind != "blocks" {
			// Which optional arguments the service fills in is not known: all of a resource's own may be.
			block.Attributes = append(block.Attributes, &tfprotov5.SchemaAttribute{
				Name: name, Type: typeOf(a.kind), Required: a.required, Optional: !a.required, Computed: top && !a.required,
			})
			continue
		}
		nested := &tfprotov5.SchemaNestedBlock{
			TypeName: name, Block: blockOf(a.inner, nil, false), Nesting: tfprotov5.SchemaNestedBlockNestingModeList,
		}
		if name == "timeouts" {
			nested.Nesting = tfprotov5.SchemaNestedBlockNestingModeSingle
		} else {
			if a.kind == "block" {
				nested.MaxItems = 1
			}
			if a.required {
				nested.MinItems = 1
			}
		}
		block.BlockTypes = append(block.BlockTypes, nested)
	}
	for name, kind := range computed {
		block.Attributes = append(block.Attributes, &tfprotov5.SchemaAttribute{Name: name, Type: typeOf(kind), Computed: true})
	}
	return block
}

// The methods that plans and applies would need are absent: Terraform's mocks stand in for them.
type provider struct{ tfprotov5.ProviderServer }

func (provider) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	return &tfprotov5.GetMetadataResponse{}, nil
}

func (provider) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	var resources map[string]resource
	if err := json.Unmarshal(described, &resources); err != nil {
		return nil, err
	}
	own := []*tfprotov5.SchemaAttribute{
		{Name: "project", Type: tftypes.String, Optional: true},
		{Name: "region", Type: tftypes.String, Optional: true},
	}
	answer := &tfprotov5.GetProviderSchemaResponse{
		Provider:          &tfprotov5.Schema{Block: &tfprotov5.SchemaBlock{Attributes: own}},
		ResourceSchemas:   map[string]*tfprotov5.Schema{},
		DataSourceSchemas: map[string]*tfprotov5.Schema{},
	}
	for name, r := range resources {
		schema := &tfprotov5.Schema{Block: blockOf(r.Arguments, r.Computed, true)}
		if source, ok := strings.CutPrefix(name, "data."); ok {
			answer.DataSourceSchemas[source] = schema
		} else {
			answer.ResourceSchemas[name] = schema
		}
	}
	return answer, nil
}

func (provider) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (provider) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}

func (provider) ValidateDataSourceConfig(context.Context, *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	return &tfprotov5.ValidateDataSourceConfigResponse{}, nil
}

func (provider) ConfigureProvider(context.Context, *tfprotov5.ConfigureProviderRequest) (*tfprotov5.ConfigureProviderResponse, error) {
	return &tfprotov5.ConfigureProviderResponse{}, nil
}

func (provider) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func main() {
	serve := func() tfprotov5.ProviderServer { return provider{} }
	if err := tf5server.Serve("hashicorp/google", serve); err != nil {
		log.Fatal(err)
	}
}
