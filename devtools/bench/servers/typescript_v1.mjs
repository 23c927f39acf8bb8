// The TypeScript SDK 1 behind node:http, stateless: a server and a transport for each request; handshake era only.
import { createServer } from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import * as z from 'zod';

function build() {
  const server = new McpServer({ name: 'payload', version: '1.0.0' });
  server.registerTool(
    'payload',
    { description: 'A text of that many bytes.', inputSchema: { size: z.number().int() } },
    async ({ size }) => ({ content: [{ type: 'text', text: 'x'.repeat(size) }] }),
  );
  return server;
}

createServer(async (request, response) => {
  if (request.url !== '/mcp') return response.writeHead(404).end();
  const server = build();
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: undefined,
    enableJsonResponse: process.env.MODE === 'json',
  });
  response.on('close', () => { transport.close(); server.close(); });
  await server.connect(transport);
  await transport.handleRequest(request, response);
}).listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
