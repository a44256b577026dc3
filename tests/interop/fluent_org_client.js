// @fluent-org/logger as a client: sends the entries, then says how many emits succeeded.
"use strict";
const { EventTime, FluentClient, FluentSocketEvent } = require("@fluent-org/logger");
const { dismissed, read, say, taken } = require("./orders");

const AT_ONCE = 20; // entries that may share a chunk

taken.then(async (orders) => {
  const client = new FluentClient(null, {
    eventMode: orders.mode,
    ack: orders.ack ? { ackTimeout: 20000 } : undefined,
    security: orders.key
      ? { clientHostname: "client", sharedKey: orders.key, username: orders.user, password: orders.password }
      : undefined,
    socket: { host: "127.0.0.1", port: orders.port, tls: orders.ca ? { ca: read(orders.ca) } : undefined },
  });
  client.socketOn(FluentSocketEvent.ERROR, (error) => {
    say({ refused: error.message });
    process.exit(0); // its emits would never settle
  });
  await new Promise((resolve) => client.socketOn(FluentSocketEvent.ESTABLISHED, resolve));
  const emits = [];
  for (let at = 0; at < orders.entries.length; at += AT_ONCE) {
    for (const { tag, sec, nano, record } of orders.entries.slice(at, at + AT_ONCE)) {
      emits.push(client.emit(tag, record, new EventTime(sec, nano)));
    }
    await new Promise(setImmediate);
  }
  const settled = await Promise.allSettled(emits);
  const failed = settled.filter((each) => each.status === "rejected");
  say({ sent: settled.length - failed.length, errors: failed.map((each) => String(each.reason)) });
  await dismissed;
  await client.shutdown();
  process.exit(0);
});
