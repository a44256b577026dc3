// fluent-logger of npm as a client: sends the entries, then says how many callbacks reported success.
"use strict";
const { createFluentSender, EventTime } = require("fluent-logger");
const { dismissed, read, say, taken } = require("./orders");

const AT_ONCE = 20; // entries that may share a chunk

taken.then(async (orders) => {
  const sender = createFluentSender(null, {
    host: "127.0.0.1",
    port: orders.port,
    eventMode: orders.mode,
    flushInterval: 5,
    requireAckResponse: orders.ack,
    ackResponseTimeout: 20000,
    tls: Boolean(orders.ca),
    tlsOptions: { ca: read(orders.ca) },
    security: orders.key
      ? { clientHostname: "client", sharedKey: orders.key, username: orders.user, password: orders.password }
      : undefined,
    enableReconnect: false,
    internalLogger: { info() {}, error: console.error },
  });
  sender.on("error", (error) => {
    say({ refused: error.message });
    process.exit(0);
  });
  const errors = [];
  let sent = 0;
  const emit = ({ tag, sec, nano, record }) =>
    new Promise((resolve) =>
      sender.emit(tag, record, new EventTime(sec, nano), (error) => {
        if (error) errors.push(String(error));
        else sent += 1;
        resolve();
      })
    );
  for (let at = 0; at < orders.entries.length; at += AT_ONCE) {
    await Promise.all(orders.entries.slice(at, at + AT_ONCE).map(emit));
  }
  say({ sent, errors });
  await dismissed;
  sender.end();
  process.exit(0);
});
