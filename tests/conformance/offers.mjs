// What the reference server offers: the tools, resources and prompts that the conformance suite asks for.
//
// A tool's `run(call, args)` returns a result, or throws. `call` knows `progress`, `log`, `ask` (legacy: a request
// to the client), `responses` and `state` (2026-07-28: what a retry brings), `capabilities` and `modern`.

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const wav = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAD8/w==';

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
const text = words => ({ content: [{ type: 'text', text: words }] });
const nothing = { type: 'object', properties: {} };
const wants = properties => ({ type: 'object', properties, required: Object.keys(properties) });

export class RpcError extends Error {
  constructor(code, message, data, status = 200) {
    super(message);
    Object.assign(this, { code, data, status });
  }
}

const key = randomBytes(32);
const seal = value => {
  const body = Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${body}.${createHmac('sha256', key).update(body).digest('base64url')}`;
};
const unseal = state => {
  const [body, tag = ''] = String(state).split('.');
  const right = createHmac('sha256', key).update(body).digest();
  const given = Buffer.from(tag, 'base64url');
  if (given.length !== right.length || !timingSafeEqual(given, right)) {
    throw new RpcError(-32602, 'the request state is not one of ours');
  }
  return JSON.parse(Buffer.from(body, 'base64url'));
};

const askFor = (message, properties) => ({
  method: 'elicitation/create',
  params: { mode: 'form', message, requestedSchema: wants(properties) },
});
const sample = (prompt, maxTokens) => ({
  method: 'sampling/createMessage',
  params: { messages: [{ role: 'user', content: { type: 'text', text: prompt } }], maxTokens },
});
const roots = { method: 'roots/list', params: {} };

const inputRequired = (inputRequests, state) => ({
  resultType: 'input_required',
  inputRequests,
  ...(state === undefined ? {} : { requestState: seal(state) }),
});
const accepted = answer => (answer?.action === 'accept' && typeof answer.content === 'object' ? answer.content : null);

const contents = {
  'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
  'test://static-binary': { mimeType: 'image/png', blob: png },
  'test://watched-resource': { mimeType: 'text/plain', text: 'Watched resource content.' },
};

export const resources = [
  { uri: 'test://static-text', name: 'static-text', description: 'A text that never changes', mimeType: 'text/plain' },
  { uri: 'test://static-binary', name: 'static-binary', description: 'An image that never changes', mimeType: 'image/png' },
  { uri: 'test://watched-resource', name: 'watched-resource', description: 'A text to subscribe to', mimeType: 'text/plain' },
];
export const templates = [
  { uriTemplate: 'test://template/{id}/data', name: 'template', description: 'Data by id', mimeType: 'application/json' },
];

export function read(uri, modern) {
  if (contents[uri]) return { contents: [{ uri, ...contents[uri] }] };
  const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
  if (id) {
    const data = { id, templateTest: true, data: `Data for ID: ${id}` };
    return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify(data) }] };
  }
  throw new RpcError(modern ? -32602 : -32002, 'Resource not found', { uri });
}

const user = content => ({ role: 'user', content });

export const prompts = [
  {
    name: 'test_simple_prompt',
    description: 'A prompt without arguments',
    run: () => ({ messages: [user({ type: 'text', text: 'This is a simple prompt for testing.' })] }),
  },
  {
    name: 'test_prompt_with_arguments',
    description: 'A prompt with two arguments',
    arguments: [
      { name: 'arg1', description: 'The first', required: true },
      { name: 'arg2', description: 'The second', required: true },
    ],
    run: (_, { arg1, arg2 }) => ({
      messages: [user({ type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` })],
    }),
  },
  {
    name: 'test_prompt_with_embedded_resource',
    description: 'A prompt that embeds a resource',
    arguments: [{ name: 'resourceUri', description: 'The resource', required: true }],
    run: (_, { resourceUri }) => ({
      messages: [
        user({
          type: 'resource',
          resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' },
        }),
        user({ type: 'text', text: 'Please process the embedded resource above.' }),
      ],
    }),
  },
  {
    name: 'test_prompt_with_image',
    description: 'A prompt with an image',
    run: () => ({
      messages: [
        user({ type: 'image', data: png, mimeType: 'image/png' }),
        user({ type: 'text', text: 'Please analyze the image above.' }),
      ],
    }),
  },
  {
    name: 'test_input_required_result_prompt',
    description: 'A prompt that asks for its context first',
    modernOnly: true,
    run: call => {
      const context = accepted(call.responses?.user_context)?.context;
      if (context === undefined) {
        return inputRequired({ user_context: askFor('What context should the prompt use?', { context: { type: 'string' } }) });
      }
      return { messages: [user({ type: 'text', text: `In the context of ${context}.` })] };
    },
  },
];

const noInput = (name, description, run, more = {}) => ({ name, description, inputSchema: nothing, run, ...more });

export const tools = [
  noInput('test_simple_text', 'Answers with a text', () => text('This is a simple text response for testing.')),
  noInput('test_image_content', 'Answers with an image', () => ({
    content: [{ type: 'image', data: png, mimeType: 'image/png' }],
  })),
  noInput('test_audio_content', 'Answers with a sound', () => ({
    content: [{ type: 'audio', data: wav, mimeType: 'audio/wav' }],
  })),
  noInput('test_embedded_resource', 'Answers with a resource', () => ({
    content: [
      {
        type: 'resource',
        resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' },
      },
    ],
  })),
  noInput('test_multiple_content_types', 'Answers with a text, an image and a resource', () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: png, mimeType: 'image/png' },
      {
        type: 'resource',
        resource: {
          uri: 'test://mixed-content-resource',
          mimeType: 'application/json',
          text: JSON.stringify({ test: 'data', value: 123 }),
        },
      },
    ],
  })),
  noInput('test_tool_with_logging', 'Logs while it works', async call => {
    await call.log('info', 'Tool execution started');
    await pause(50);
    await call.log('info', 'Tool processing data');
    await pause(50);
    await call.log('info', 'Tool execution completed');
    return text('Tool with logging executed successfully');
  }),
  noInput('test_logging_tool', 'Logs if it is asked to', async call => {
    await call.log('info', 'a line');
    return text('done');
  }),
  noInput('test_tool_with_progress', 'Tells how far it is', async call => {
    for (const progress of [0, 50, 100]) {
      await call.progress(progress, 100);
      if (progress < 100) await pause(50);
    }
    return text('done');
  }),
  noInput('test_error_handling', 'Always fails', () => ({
    ...text('This tool intentionally returns an error for testing'),
    isError: true,
  })),
  noInput('test_reconnection', 'Ends its stream before it answers', async call => {
    await pause(20);
    call.endStream?.();
    await pause(100);
    return text('Reconnection test completed successfully');
  }),
  {
    name: 'test_sampling',
    description: "Asks the client's model",
    inputSchema: wants({ prompt: { type: 'string' } }),
    inSession: true,
    async run(call, { prompt }) {
      const answer = await call.ask(sample(prompt, 100));
      return text(`LLM response: ${answer.content?.text ?? ''}`);
    },
  },
  {
    name: 'test_elicitation',
    description: "Asks the client's user",
    inputSchema: wants({ message: { type: 'string' } }),
    inSession: true,
    async run(call, { message }) {
      const answer = await call.ask({
        method: 'elicitation/create',
        params: {
          message,
          requestedSchema: wants({
            username: { type: 'string', description: "User's response" },
            email: { type: 'string', description: "User's email address" },
          }),
        },
      });
      return text(`User response: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    },
  },
  noInput(
    'test_elicitation_sep1034_defaults',
    'Asks with defaults for every kind of field',
    async call => {
      const answer = await call.ask({
        method: 'elicitation/create',
        params: {
          message: 'Please fill in or keep the defaults',
          requestedSchema: {
            type: 'object',
            properties: {
              name: { type: 'string', default: 'John Doe' },
              age: { type: 'integer', default: 30 },
              score: { type: 'number', default: 95.5 },
              status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
              verified: { type: 'boolean', default: true },
            },
            required: [],
          },
        },
      });
      return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    },
    { inSession: true },
  ),
  noInput(
    'test_elicitation_sep1330_enums',
    'Asks for a choice in every way there is',
    async call => {
      const titled = (names, kind) => names.map((title, at) => ({ const: `value${at + 1}`, title: `${title} ${kind}` }));
      const options = ['option1', 'option2', 'option3'];
      const numbers = ['First', 'Second', 'Third'];
      const answer = await call.ask({
        method: 'elicitation/create',
        params: {
          message: 'Please choose',
          requestedSchema: {
            type: 'object',
            properties: {
              untitledSingle: { type: 'string', enum: options },
              titledSingle: { type: 'string', oneOf: titled(numbers, 'Option') },
              legacyEnum: {
                type: 'string',
                enum: ['opt1', 'opt2', 'opt3'],
                enumNames: ['Option One', 'Option Two', 'Option Three'],
              },
              untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
              titledMulti: { type: 'array', items: { anyOf: titled(numbers, 'Choice') } },
            },
            required: [],
          },
        },
      });
      return text(`Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    },
    { inSession: true },
  ),
  {
    name: 'json_schema_2020_12_tool',
    description: 'Has a schema with much of JSON Schema 2020-12',
    inputSchema: {
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      $defs: {
        address: {
          $anchor: 'addressDef',
          type: 'object',
          properties: { street: { type: 'string' }, city: { type: 'string' } },
        },
      },
      properties: {
        name: { type: 'string' },
        address: { $ref: '#/$defs/address' },
        contactMethod: { type: 'string', enum: ['phone', 'email'] },
        phone: { type: 'string' },
        email: { type: 'string' },
      },
      allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
      if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
      then: { required: ['phone'] },
      else: { required: ['email'] },
      additionalProperties: false,
    },
    run: (_, args) => text(JSON.stringify(args)),
  },
  {
    name: 'test_x_mcp_header',
    description: 'Has an argument that clients repeat in a header',
    inputSchema: {
      type: 'object',
      properties: { region: { type: 'string', 'x-mcp-header': 'Region' } },
    },
    run: (_, args) => text(`region: ${args.region ?? 'none'}`),
  },
  noInput('test_missing_capability', 'Needs a client that samples', call => {
    if (call.modern && !call.capabilities?.sampling) {
      throw new RpcError(-32021, 'the client did not declare `sampling`', { requiredCapabilities: { sampling: {} } }, 400);
    }
    return text('the client samples');
  }),
  noInput('test_streaming_elicitation', 'Tells how far it is, then asks', async call => {
    if (!call.modern) return text('nothing to ask');
    if (!call.capabilities?.elicitation) {
      throw new RpcError(-32021, 'the client did not declare `elicitation`', { requiredCapabilities: { elicitation: {} } }, 400);
    }
    await call.progress(1, 2);
    return inputRequired({ name: askFor('What is your name?', { name: { type: 'string' } }) });
  }),
  noInput('test_trigger_tool_change', 'Changes the list of tools', call => {
    call.changed('tools');
    return text('changed');
  }),
  noInput('test_trigger_prompt_change', 'Changes the list of prompts', call => {
    call.changed('prompts');
    return text('changed');
  }),
  ...modernInput(),
];

function modernInput() {
  const name = askFor('What is your name?', { name: { type: 'string' } });
  const tool = (suffix, description, run) =>
    noInput(`test_input_required_result_${suffix}`, description, run, { modernOnly: true });
  return [
    tool('elicitation', 'Asks for a name', call => {
      const given = accepted(call.responses?.user_name)?.name;
      return typeof given === 'string' ? text(`Hello, ${given}!`) : inputRequired({ user_name: name });
    }),
    tool('sampling', 'Asks a model for a capital', call => {
      const answer = call.responses?.capital_question?.content?.text;
      return answer === undefined
        ? inputRequired({ capital_question: sample('What is the capital of France?', 100) })
        : text(answer);
    }),
    tool('list_roots', "Asks for the client's roots", call => {
      const given = call.responses?.client_roots?.roots;
      return given === undefined ? inputRequired({ client_roots: roots }) : text(given.map(root => root.uri).join(', '));
    }),
    tool('request_state', 'Asks, and knows its question again', call => {
      if (call.state === undefined) {
        return inputRequired({ confirm: askFor('Please confirm', { ok: { type: 'boolean' } }) }, { tool: 'request_state' });
      }
      return text(unseal(call.state).tool === 'request_state' ? 'state-ok' : 'another state');
    }),
    tool('multiple_inputs', 'Asks three things at once', call => {
      const { user_name, greeting, client_roots } = call.responses ?? {};
      if (!user_name || !greeting || !client_roots) {
        const requests = { user_name: name, greeting: sample('Generate a greeting', 50), client_roots: roots };
        return inputRequired(requests, { tool: 'multiple_inputs' });
      }
      unseal(call.state);
      return text(`${greeting.content?.text}, ${accepted(user_name)?.name} of ${client_roots.roots?.length} roots`);
    }),
    tool('multi_round', 'Asks twice', call => {
      const state = call.state === undefined ? { round: 1 } : unseal(call.state);
      if (state.round === 1 && !call.responses?.step1) {
        return inputRequired({ step1: askFor('Step 1: What is your name?', { name: { type: 'string' } }) }, { round: 1 });
      }
      if (state.round === 1) {
        const next = { round: 2, name: accepted(call.responses.step1)?.name };
        return inputRequired({ step2: askFor('Step 2: What is your favorite color?', { color: { type: 'string' } }) }, next);
      }
      return text(`${state.name} likes ${accepted(call.responses?.step2)?.color}`);
    }),
    tool('tampered_state', 'Notices a changed state', call => {
      if (call.state === undefined) {
        return inputRequired({ confirm: askFor('Please confirm', { ok: { type: 'boolean' } }) }, { tool: 'tampered_state' });
      }
      unseal(call.state);
      return text('untouched');
    }),
    tool('capabilities', 'Asks only what the client can answer', call => {
      const requests = {};
      if (call.capabilities?.sampling) requests.greeting = sample('Generate a greeting', 50);
      if (call.capabilities?.elicitation) requests.user_name = name;
      if (call.capabilities?.roots) requests.client_roots = roots;
      const answered = Object.keys(call.responses ?? {}).length > 0;
      return answered || Object.keys(requests).length === 0 ? text('done') : inputRequired(requests);
    }),
  ];
}
