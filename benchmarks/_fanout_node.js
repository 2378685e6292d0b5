// The Node side of fanout.py: one res.write() per client and event, made once for all.
//
// GET /events streams; GET /publish?events=N&rate=R publishes and answers when that is done.
'use strict';
const http = require('http');
const { setTimeout: sleep } = require('timers/promises');

const clients = new Set();
let id = 0;

function publish() {
  const stamp = String(process.hrtime.bigint()).padStart(20, '0');
  const chunk = Buffer.from(`id: 0123abcd.${++id}\ndata: ${'x'.repeat(79)}${stamp}~\n\n`, 'latin1');
  for (const response of clients) response.write(chunk);
}

async function publishMany(events, rate) {
  const start = performance.now();
  for (let n = 0; n < events; n++) {
    publish();
    if (rate) await sleep(Math.max(0, start + ((n + 1) * 1000) / rate - performance.now()));
    else await new Promise(setImmediate); // others run, as they do in every server
  }
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname === '/publish') {
    await publishMany(Number(url.searchParams.get('events')), Number(url.searchParams.get('rate')));
    response.end('{}');
    return;
  }
  response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
  response.write(': connected\n\n');
  clients.add(response);
  response.on('close', () => clients.delete(response));
});

server.listen({ port: 0, host: '127.0.0.1', backlog: 2048 }, () => {
  const about = `Node ${process.version}, http`;
  console.log(JSON.stringify({ port: server.address().port, about }));
});
