// typescript.mjs v1|v2 URL: uses each feature of the reference server and prints, by feature, what came of it.
const [, , sdk, url] = process.argv;
const { Client, Transport, ElicitRequest, SamplingRequest, LogNotification } = await (sdk === 'v2' ? two() : one());

async function two() {
  const client = await import('@modelcontextprotocol/client');
  return {
    Client: client.Client,
    Transport: client.StreamableHTTPClientTransport,
    ElicitRequest: 'elicitation/create',
    SamplingRequest: 'sampling/createMessage',
    LogNotification: 'notifications/message',
  };
}

async function one() {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  return {
    Client,
    Transport: StreamableHTTPClientTransport,
    ElicitRequest: types.ElicitRequestSchema,
    SamplingRequest: types.CreateMessageRequestSchema,
    LogNotification: types.LoggingMessageNotificationSchema,
  };
}

const options = { capabilities: { elicitation: { form: {} }, sampling: {} }, versionNegotiation: { mode: 'auto' } };
const client = new Client({ name: 'test', version: '1' }, options);
client.setRequestHandler(ElicitRequest, async () => ({ action: 'accept', content: { cups: 2, milk: true } }));
client.setRequestHandler(SamplingRequest, async () => (
  { role: 'assistant', model: 'test', content: { type: 'text', text: 'a haiku' } }
));
const logged = [];
client.setNotificationHandler(LogNotification, (message) => { logged.push(message.params.data); });
await client.connect(new Transport(new URL(url)));

const told = {};
async function feature(name, use) {
  try {
    told[name] = (await use()) ? 'ok' : 'wrong';
  } catch (error) {
    told[name] = String(error).slice(0, 200);
  }
}
const call = (name, args, ...rest) => client.callTool({ name, arguments: args }, ...rest);

await feature('tools', async () => (await client.listTools()).tools.some((tool) => tool.name === 'add'));
await feature('structured output', async () => (await call('add', { a: 1, b: 2 })).structuredContent.result === 3);
await feature('tool error', async () => (await call('swatch', { color: 'mauve' })).isError === true);
await feature('image', async () => (await call('swatch', { color: 'teal' })).content[0].mimeType === 'image/png');
await feature('audio', async () => (await call('tone', {})).content[0].mimeType === 'audio/wav');
await feature('embedded resource', async () => (
  (await call('look_up_color', { name: 'teal' })).content[0].resource.uri === 'color://teal'
));
await feature('progress', async () => {
  const reports = [];
  const onprogress = (report) => reports.push(report.progress);
  const rest = sdk === 'v2' ? [{ onprogress }] : [undefined, { onprogress }];
  await call('countdown', { seconds: 1 }, ...rest);
  return reports.join() === '0,1';
});
await feature('resources', async () => (
  (await client.readResource({ uri: 'color://palette' })).contents[0].text.includes('#008080')
));
await feature('templates', async () => (
  (await client.listResourceTemplates()).resourceTemplates.length === 1 &&
  (await client.readResource({ uri: 'color://teal' })).contents[0].text.includes('#008080')
));
await feature('prompts', async () => (
  (await client.getPrompt({ name: 'describe_color', arguments: { name: 'teal' } })).messages[0].content.text.includes('teal')
));
await feature('completion', async () => {
  const asked = { ref: { type: 'ref/prompt', name: 'describe_color' }, argument: { name: 'mood', value: 'ca' } };
  return (await client.complete(asked)).completion.values.join() === 'calm';
});
await feature('elicitation', async () => (await call('order_tea', { kind: 'mint' })).structuredContent.cups === 2);
await feature('sampling', async () => (await call('haiku', { topic: 'autumn' })).content[0].text === 'a haiku');
if (process.env.LOGS) {
  await feature('logging', async () => {
    await call('rehearse', { steps: ['a'] });
    return logged.join() === 'step 1 of 1: a';
  });
}
await client.close();
console.log(JSON.stringify(told));
process.exit(0);
