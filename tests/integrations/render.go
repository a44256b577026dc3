// Renders templates of the chart with Go's own template engine: what Helm does, as far as this chart needs it.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

func main() {
	var values map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&values); err != nil {
		panic(err)
	}
	functions := template.FuncMap{
		// JSON is YAML too.
		"toYaml": func(value any) (string, error) {
			text, err := json.Marshal(value)
			return string(text), err
		},
		"nindent": func(count int, text string) string {
			return "\n" + strings.Repeat(" ", count) + text
		},
		"sha256sum": func(text string) string {
			return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
		},
	}
	release := map[string]string{"Name": "logclf", "Namespace": "logging"}
	data := map[string]any{"Values": values, "Release": release}
	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		parsed := template.Must(template.New(path).Option("missingkey=error").Funcs(functions).Parse(string(text)))
		fmt.Println("---")
		if err := parsed.Execute(os.Stdout, data); err != nil {
			panic(err)
		}
	}
}
