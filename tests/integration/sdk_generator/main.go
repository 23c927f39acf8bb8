// Writes the SDKs for TypeScript and Go that Pulumi's own generators make of a package's schema: sdk_generator SCHEMA FOLDER.
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"

	gogen "github.com/pulumi/pulumi/pkg/v3/codegen/go"
	"github.com/pulumi/pulumi/pkg/v3/codegen/nodejs"
	"github.com/pulumi/pulumi/pkg/v3/codegen/schema"
)

// noOthers loads no package: the schema refers to none but itself.
type noOthers struct{ schema.ReferenceLoader }

func main() {
	log.SetFlags(0)
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var spec schema.PackageSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		log.Fatal(err)
	}
	bound, diagnostics, err := schema.BindSpec(spec, noOthers{}, schema.ValidationOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if len(diagnostics) > 0 {
		log.Fatal(diagnostics.Error())
	}
	node, err := nodejs.GeneratePackage("mcpfleet", bound, nil, nil, false, noOthers{})
	if err != nil {
		log.Fatal(err)
	}
	golang, err := gogen.GeneratePackage("mcpfleet", bound, nil)
	if err != nil {
		log.Fatal(err)
	}
	for language, files := range map[string]map[string][]byte{"nodejs": node, "go": golang} {
		for name, content := range files {
			path := filepath.Join(os.Args[2], language, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				log.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				log.Fatal(err)
			}
		}
	}
}
