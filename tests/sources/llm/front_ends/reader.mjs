// Runs the front ends' own readers for the tests: a request is a line of JSON on stdin,
// {"script", "args"}, the body of an async function; its result is a line on stdout.

import { createInterface } from "node:readline";
import * as ai from "ai";
import { HttpAgent } from "@ag-ui/client";

// What the AI SDK's hooks keep their messages in.
class State {
  status = "ready";
  error = undefined;
  messages = [];
  pushMessage = (message) => { this.messages.push(message); };
  popMessage = () => { this.messages.pop(); };
  replaceMessage = (index, message) => { this.messages[index] = message; };
  snapshot = (thing) => structuredClone(thing);
}

// A chat as `useChat` has it, without React. `fetch` is wrapped, to see the headers.
function openChat(api, id = "chat-1") {
  const seen = { headers: null, status: null, data: [], calls: [], finished: null };
  const fetch = async (...args) => {
    const response = await globalThis.fetch(...args);
    seen.status = response.status;
    seen.headers = Object.fromEntries(response.headers);
    return response;
  };
  const state = new State();
  class Chat extends ai.AbstractChat {}
  const chat = new Chat({
    id,
    state,
    transport: new ai.DefaultChatTransport({ api, fetch }),
    onData: (part) => seen.data.push(part),
    onToolCall: ({ toolCall }) => { seen.calls.push(toolCall); },
    onFinish: ({ isAbort, isError, isDisconnect, finishReason }) => {
      seen.finished = { isAbort, isError, isDisconnect, finishReason };
    },
  });
  const answer = () => state.messages.filter((message) => message.role === "assistant").at(-1);
  return { chat, state, seen, answer };
}

const textOf = (message) =>
  (message?.parts ?? []).filter((part) => part.type === "text").map((part) => part.text).join("");

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}

// What the AI SDK makes of the body of a response: its chunks, its message, its errors.
async function readMessage(body) {
  const fetch = async () => new Response(body);
  const transport = new ai.DefaultChatTransport({ api: "/", fetch });
  const request = { chatId: "1", messages: [], trigger: "submit-message" };
  const chunks = [], errors = [];
  let message = null, failure = null;
  try {
    const [one, other] = (await transport.sendMessages(request)).tee();
    const reading = (async () => { for await (const chunk of one) chunks.push(chunk); })();
    const onError = (error) => errors.push(error.message);
    for await (const state of ai.readUIMessageStream({ stream: other, onError })) message = state;
    await reading;
  } catch (error) {
    failure = String(error);
  }
  return { chunks, message, errors, failure };
}

// What AG-UI's client makes of it, or of what a server answers.
async function runAgent(url, body, threadId = "thread-1", runId = "run-1") {
  const seen = { events: [], failure: null, messages: null, status: null };
  const fetch = async (...args) => {
    const response = body === undefined ? await globalThis.fetch(...args) : new Response(body);
    seen.status = response.status;
    return response;
  };
  const agent = new HttpAgent({ url, threadId, fetch });
  const onEvent = ({ event }) => { seen.events.push(event); };
  try {
    const { newMessages } = await agent.runAgent({ runId }, { onEvent });
    seen.messages = newMessages;
  } catch (error) {
    seen.failure = String(error);
  }
  return seen;
}

console.error = console.warn = () => {};  // the clients log what they then raise
const AsyncFunction = (async () => {}).constructor;
const scope = { ai, HttpAgent, openChat, readMessage, runAgent, textOf, until };
for await (const line of createInterface({ input: process.stdin })) {
  const { script, args } = JSON.parse(line);
  const names = { ...scope, ...args };
  let answer;
  try {
    const result = await new AsyncFunction(...Object.keys(names), script)(...Object.values(names));
    answer = { result: result ?? null };
  } catch (error) {
    answer = { error: error?.stack ?? String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
