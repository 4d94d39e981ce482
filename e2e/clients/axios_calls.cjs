// A bare HTTP call as workflow tools such as n8n make it: axios, its options, its own parsing. Prints what it got.
"use strict";
const axios = require("axios");

const client = axios.create({
  baseURL: process.env.OPENAI_BASE_URL,
  headers: { Authorization: `Bearer ${process.env.OPENAI_API_KEY}`, Accept: "application/json, text/html, */*" },
  timeout: 60_000,
  maxRedirects: 0,
  validateStatus: () => true,
});
const hello = { model: "tiny", messages: [{ role: "user", content: "Say hello." }], max_tokens: 8, temperature: 0 };

async function readStream() {
  const answer = await client.post("/chat/completions", { ...hello, stream: true }, { responseType: "stream" });
  let text = "";
  for await (const piece of answer.data) text += piece;
  const events = text.split("\n\n").filter(Boolean).map((each) => each.replace(/^data: /, ""));
  const last = events.pop();
  return { last, text: events.map((each) => JSON.parse(each).choices[0]?.delta?.content ?? "").join("") };
}

async function main() {
  const whole = await client.post("/chat/completions", hello);
  const refused = await client.post("/chat/completions", { ...hello, messages: undefined, model: "no-such-model" });
  console.log(JSON.stringify({
    whole: whole.data.choices[0].message.content,
    type: whole.headers["content-type"],
    streamed: await readStream(),
    models: (await client.get("/models")).data.data.map((each) => each.id).sort(),
    refused: [refused.status, refused.data.error.code],
  }));
}

main();
