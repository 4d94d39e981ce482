// OpenAI's JavaScript package; where the gateway is, and the key, it has from its usual variables. Prints what it got.
"use strict";
const OpenAI = require("openai");

const hello = { model: "tiny", messages: [{ role: "user", content: "Say hello." }], max_tokens: 8, temperature: 0 };
const said = { model: "tiny", input: "Say hello.", max_output_tokens: 8, temperature: 0 };

async function main() {
  const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
  const whole = await client.chat.completions.create(hello);
  const pieces = [];
  const stream = await client.chat.completions.create({ ...hello, stream: true, stream_options: { include_usage: true } });
  let usage = null;
  for await (const chunk of stream) {
    pieces.push(chunk.choices[0]?.delta?.content ?? "");
    usage = chunk.usage ?? usage;
  }
  const response = await client.responses.create(said);
  const deltas = [];
  for await (const event of await client.responses.create({ ...said, stream: true })) {
    if (event.type === "response.output_text.delta") deltas.push(event.delta);
  }
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  const vectors = await client.embeddings.create({ model: "vectors", input: ["a plinth", "a base"] });
  const refused = await client.chat.completions.create({ ...hello, model: "no-such-model" })
    .catch((error) => ({ status: error.status, code: error.code, request: error.requestID }));
  // A client that leaves in the middle of a stream.
  const left = await client.chat.completions.create({ ...hello, max_tokens: 200, stream: true });
  for await (const _ of left) break;
  console.log(JSON.stringify({
    chat: [whole.choices[0].message.content, pieces.join("")],
    tokens: [whole.usage.completion_tokens, usage.completion_tokens],
    response: [response.output_text, deltas.join("")],
    models: models.sort(),
    dimensions: vectors.data.map((each) => each.embedding.length),
    refused,
  }));
}

main();
