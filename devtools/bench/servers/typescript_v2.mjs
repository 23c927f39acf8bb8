// The TypeScript SDK 2 behind node:http, stateless for both eras; MODE=json turns streams off.
import { createServer } from 'node:http';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { toNodeHandler } from '@modelcontextprotocol/node';
import * as z from 'zod';

function build() {
  const server = new McpServer({ name: 'payload', version: '1.0.0' });
  server.registerTool(
    'payload',
    { description: 'A text of that many bytes.', inputSchema: z.object({ size: z.number().int() }) },
    async ({ size }) => ({ content: [{ type: 'text', text: 'x'.repeat(size) }] }),
  );
  return server;
}

const options = process.env.MODE === 'json' ? { responseMode: 'json' } : {};
const handler = toNodeHandler(createMcpHandler(build, options));
createServer((request, response) => {
  if (request.url === '/mcp') return handler(request, response);
  response.writeHead(404).end();
}).listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
