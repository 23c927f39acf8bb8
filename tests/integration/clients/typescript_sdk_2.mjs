// The official TypeScript SDK, line 2, as a client of the revision that the first argument names: legacy or auto.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [mode, command, ...args] = process.argv.slice(2);
const transport = command.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(command))
  : new StdioClientTransport({ command, args, stderr: "inherit" });
const client = new Client({ name: "typescript-sdk-2", version: "1" }, { versionNegotiation: { mode } });
await client.connect(transport);
const progress = [];
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const counted = await client.callTool(
  { name: "countdown", arguments: { seconds: 1 } },
  { onprogress: (one) => progress.push(one.progress) },
);
const revision = client.getNegotiatedProtocolVersion();
console.log(JSON.stringify({ tools, progress, counted: counted.structuredContent, revision }));
await client.close();
