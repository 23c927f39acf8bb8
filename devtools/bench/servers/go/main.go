// The Go SDK behind net/http, stateless; MODE=json turns streams off. GOMAXPROCS is set to 1 by who starts it.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type arguments struct {
	Size int `json:"size" jsonschema:"how many bytes"`
}

func payload(_ context.Context, _ *mcp.CallToolRequest, given arguments) (*mcp.CallToolResult, any, error) {
	text := &mcp.TextContent{Text: strings.Repeat("x", given.Size)}
	return &mcp.CallToolResult{Content: []mcp.Content{text}}, nil, nil
}

func main() {
	server := mcp.NewServer(&mcp.Implementation{Name: "payload", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "payload", Description: "A text of that many bytes."}, payload)
	handler := mcp.NewStreamableHTTPHandler(
		func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: os.Getenv("MODE") == "json"},
	)
	http.Handle("/mcp", handler)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
