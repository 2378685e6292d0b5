// The Node side of connections.py: a head and one event, and then nothing.
'use strict';
const http = require('http');

const event = `id: 0123abcd.1\ndata: ${'x'.repeat(99)}~\n\n`;

const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
  response.write(event);
});

server.listen({ port: 0, host: '127.0.0.1', backlog: 2048 }, () => {
  const about = `Node ${process.version}, http`;
  console.log(JSON.stringify({ port: server.address().port, about }));
});
