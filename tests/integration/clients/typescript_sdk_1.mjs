// The official TypeScript SDK, line 1 (handshake only), as a client: lists, calls a tool, prints what it saw as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [command, ...args] = process.argv.slice(2);
const transport = command.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(command))
  : new StdioClientTransport({ command, args, stderr: "inherit" });
const client = new Client({ name: "typescript-sdk-1", version: "1" });
await client.connect(transport);
const progress = [];
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const counted = await client.callTool({ name: "countdown", arguments: { seconds: 1 } }, undefined, {
  onprogress: (one) => progress.push(one.progress),
});
console.log(JSON.stringify({ tools, progress, counted: counted.structuredContent }));
await client.close();
