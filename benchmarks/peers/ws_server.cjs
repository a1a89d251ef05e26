// Node's ws: a loop over the members, with the text encoded once. `ws` is found by NODE_PATH.
// Node itself raises the limit of open files to the hard limit.
'use strict';

const { WebSocket, WebSocketServer } = require('ws');

/** @type {Map<string, Set<WebSocket>>} */
const rooms = new Map();

function join(name, ws) {
  const members = rooms.get(name);
  if (members) members.add(ws);
  else rooms.set(name, new Set([ws]));
  ws.joined.add(name);
}

function leave(ws) {
  for (const name of ws.joined) {
    const members = rooms.get(name);
    members.delete(ws);
    if (!members.size) rooms.delete(name);
  }
}

function publish({ room_id, payload }) {
  const data = Buffer.from(JSON.stringify({ payload }));
  for (const member of rooms.get(room_id) ?? []) {
    if (member.readyState === WebSocket.OPEN) member.send(data, { binary: false });
  }
}

function onMessage(data) {
  const { action, data: body, id } = JSON.parse(data);
  if (action === 'publish') {
    publish(body);
  } else if (action === 'subscribe') {
    join(body.room_id, this);
    this.send(JSON.stringify({ id, data: { room: body.room_id } }));
  } else if (action === 'echo') {
    this.send(JSON.stringify({ id, data: body }));
  }
}

function onClose() {
  leave(this);
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  path: '/ws',
  backlog: 5000,
  perMessageDeflate: false,
  clientTracking: false,
});

server.on('connection', (ws) => {
  ws.joined = new Set();
  ws.on('message', onMessage);
  ws.on('close', onClose);
  ws.on('error', () => {}); // 'close' follows
});

server.on('listening', () => {
  const versions = { node: process.versions.node, ws: require('ws/package.json').version };
  process.stdout.write(JSON.stringify({ port: server.address().port, versions }) + '\n');
});
