// The Node sides of single_stream.py: one res.write() an event, backpressure honoured.
//
// node _node_http.js MODE CHUNK PAYLOAD, where MODE is
//   generator  an async generator of ready-made bytes (what Starlette's side does, too)
//   framed     an async generator of text; each event is numbered and framed, as ours are
//   loop       no generator: ready-made bytes in a plain loop, the least that http can cost
//
// Node joins the writes of one turn of its event loop into one chunk, up to 16 KiB.
'use strict';
const http = require('http');
const { once } = require('events');

const [, , mode, text, payload] = process.argv;
const chunk = Buffer.from(text, 'latin1');

async function* repeat(value, count) {
  for (let n = 0; n < count; n++) yield value;
}

async function generator(response, count) {
  for await (const bytes of repeat(chunk, count)) {
    if (!response.write(bytes)) await once(response, 'drain');
  }
}

async function framed(response, count) {
  let id = 0;
  for await (const data of repeat(payload, count)) {
    id += 1;
    if (!response.write(`id: 0123abcd.${id}\ndata: ${data}\n\n`)) await once(response, 'drain');
  }
}

async function loop(response, count) {
  for (let n = 0; n < count; n++) {
    if (!response.write(chunk)) await once(response, 'drain');
  }
}

const modes = { generator, framed, loop };

const server = http.createServer(async (request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
  await modes[mode](response, Number(request.url.split('=')[1]));
  response.end();
});

server.listen(0, '127.0.0.1', () => {
  const about = `Node ${process.version}, http, ${mode}`;
  console.log(JSON.stringify({ port: server.address().port, about }));
});
