// What OpenAI's own JavaScript client gets from a server: node client.mjs URL MODEL RED BLUE VIDEO
// (data URLs in environment variables of these names). Prints one JSON object.
import OpenAI, { BadRequestError, NotFoundError } from "openai";

const [url, model] = process.argv.slice(2);
const { RED, BLUE, VIDEO } = process.env;
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });

const image = (data) => ({ type: "image_url", image_url: { url: data } });
const text = (words) => ({ type: "text", text: words });
const request = (...content) => ({
  model,
  messages: [{ role: "user", content }],
  temperature: 0,
  max_tokens: 8,
});

async function refusal(...content) {
  try {
    await client.chat.completions.create(request(...content));
    return null;
  } catch (error) {
    const { status, code, param, type } = error;
    return { isBadRequest: error instanceof BadRequestError, status, code, param, type };
  }
}

const question = text("Name the color.");
const chat = await client.chat.completions.create(request(image(RED), question));
const both = await client.chat.completions.create(
  request(image(RED), text("and"), image(BLUE), question),
);
const video = await client.chat.completions.create(
  request({ type: "video_url", video_url: { url: VIDEO } }, question),
);

const pieces = [];
let usage = null;
const stream = await client.chat.completions.create({
  ...request(image(BLUE), question),
  stream: true,
  stream_options: { include_usage: true },
});
for await (const event of stream) {
  pieces.push(event.choices[0]?.delta?.content ?? "");
  usage = event.usage ?? usage;
}

const runner = client.chat.completions.stream(request(image(RED), question));
const gathered = await runner.finalContent();

const response = await client.responses.create({
  model,
  temperature: 0,
  max_output_tokens: 16,
  input: [
    {
      role: "user",
      content: [
        { type: "input_image", image_url: RED, detail: "auto" },
        { type: "input_text", text: "Name the color." },
      ],
    },
  ],
});

let unknown = null;
try {
  await client.chat.completions.create({ ...request(question), model: "nobody" });
} catch (error) {
  unknown = { isNotFound: error instanceof NotFoundError, code: error.code };
}

const models = [];
for await (const listed of client.models.list()) {
  models.push(listed.id);
}

process.stdout.write(
  JSON.stringify({
    chat: chat.choices[0].message.content,
    finish: chat.choices[0].finish_reason,
    promptTokens: chat.usage.prompt_tokens,
    bothTokens: both.usage.prompt_tokens,
    videoTokens: video.usage.prompt_tokens,
    streamed: pieces.join(""),
    streamedTokens: usage?.completion_tokens ?? null,
    gathered,
    response: response.output_text,
    broken: await refusal(image("data:image/png;base64,AAAA"), question),
    unknown,
    models,
  }),
);
