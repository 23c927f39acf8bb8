// go URL: uses each feature of the reference server through the Go SDK's client and prints what came of it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	reports := make(chan float64, 16)
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"cups": 2, "milk": true}}, nil
		},
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Role: "assistant", Model: "test", Content: &mcp.TextContent{Text: "a haiku"}}, nil
		},
		ProgressNotificationHandler: func(_ context.Context, request *mcp.ProgressNotificationClientRequest) {
			reports <- request.Params.Progress
		},
	})
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: os.Args[1]}, nil)
	if err != nil {
		log.Fatal(err)
	}
	told := map[string]string{}
	feature := func(name string, use func() (bool, error)) {
		switch ok, err := use(); {
		case err != nil:
			told[name] = err.Error()
		case ok:
			told[name] = "ok"
		default:
			told[name] = "wrong"
		}
	}
	call := func(name string, arguments map[string]any) (*mcp.CallToolResult, error) {
		return session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: arguments})
	}
	has := func(name string, arguments map[string]any, word string) func() (bool, error) {
		return func() (bool, error) {
			result, err := call(name, arguments)
			if err != nil {
				return false, err
			}
			text, err := json.Marshal(result)
			return strings.Contains(string(text), word), err
		}
	}
	feature("tools", func() (bool, error) {
		listed, err := session.ListTools(ctx, nil)
		return err == nil && len(listed.Tools) > 3, err
	})
	feature("structured output", has("add", map[string]any{"a": 1, "b": 2}, `"structuredContent":{"result":3}`))
	feature("tool error", has("swatch", map[string]any{"color": "mauve"}, `"isError":true`))
	feature("image", has("swatch", map[string]any{"color": "teal"}, `"image/png"`))
	feature("audio", has("tone", map[string]any{}, `"audio/wav"`))
	feature("embedded resource", has("look_up_color", map[string]any{"name": "teal"}, `"color://teal"`))
	feature("progress", func() (bool, error) {
		params := &mcp.CallToolParams{Name: "countdown", Arguments: map[string]any{"seconds": 1}}
		params.SetProgressToken("p")
		if _, err := session.CallTool(ctx, params); err != nil {
			return false, err
		}
		return <-reports == 0 && <-reports == 1, nil
	})
	read := func(uri string) func() (bool, error) {
		return func() (bool, error) {
			result, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
			return err == nil && strings.Contains(result.Contents[0].Text, "#008080"), err
		}
	}
	feature("resources", read("color://palette"))
	feature("templates", read("color://teal"))
	feature("prompts", func() (bool, error) {
		params := &mcp.GetPromptParams{Name: "describe_color", Arguments: map[string]string{"name": "teal"}}
		result, err := session.GetPrompt(ctx, params)
		return err == nil && len(result.Messages) == 1, err
	})
	feature("completion", func() (bool, error) {
		result, err := session.Complete(ctx, &mcp.CompleteParams{
			Ref:      &mcp.CompleteReference{Type: "ref/prompt", Name: "describe_color"},
			Argument: mcp.CompleteParamsArgument{Name: "mood", Value: "ca"},
		})
		return err == nil && len(result.Completion.Values) == 1, err
	})
	feature("elicitation", has("order_tea", map[string]any{"kind": "mint"}, `"cups":2`))
	feature("sampling", has("haiku", map[string]any{"topic": "autumn"}, `a haiku`))
	text, err := json.Marshal(told)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}
