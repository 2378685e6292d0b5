// The Durable Streams side of catch_up.py: its Node server with the events in memory.
//
// node _catch_up_node.mjs DIRECTORY EVENTS SIZE;  DIRECTORY has node_modules/@durable-streams/server
// GET /events?offset=-1 answers with all of them. Compression is off, as in the other servers.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [directory, events, size] = process.argv.slice(2);
const require = createRequire(join(directory, 'x.js'));
const { DurableStreamTestServer } = await import(pathToFileURL(require.resolve('@durable-streams/server')));
const { version } = JSON.parse(
  readFileSync(join(directory, 'node_modules/@durable-streams/server/package.json'), 'utf8'));

const server = new DurableStreamTestServer({ port: 0, host: '127.0.0.1', compression: false });
await server.start();
server.store.create('/events', { contentType: 'text/event-stream' });
const data = 'x'.repeat(Number(size) - 1) + '~';
for (let n = 1; n <= Number(events); n++) {
  server.store.append('/events', Buffer.from(`id: 0123abcd.${n}\ndata: ${data}\n\n`, 'latin1'));
}
const port = Number(new URL(server.baseUrl ?? server.url).port);
const about = `@durable-streams/server ${version}, Node ${process.version}`;
console.log(JSON.stringify({ port, about }));
