// Node's ws and @msgpack/msgpack, driven line by line: [method, ...arguments] in, {result} or {error} out, both JSON.

import { createInterface } from "node:readline";

import * as msgpack from "@msgpack/msgpack";
import WebSocket from "ws";

import { Talker } from "./talker.mjs";

const talker = new Talker(WebSocket, msgpack);

for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...rest] = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await talker[method](...rest)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
