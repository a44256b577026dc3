// @fluent-org/logger as a server: says its port, then every entry it gets, until it is dismissed.
"use strict";
const { EventTime, FluentServer } = require("@fluent-org/logger");
const { dismissed, read, say, taken } = require("./orders");

taken.then(async (orders) => {
  const server = new FluentServer({
    listenOptions: { host: "127.0.0.1", port: orders.port || 0 },
    tlsOptions: orders.cert ? { cert: read(orders.cert), key: read(orders.cert_key) } : undefined,
    security: orders.key
      ? {
          serverHostname: "server",
          sharedKey: orders.key,
          authorize: Boolean(orders.user),
          userDict: orders.user ? { [orders.user]: orders.password } : {},
        }
      : undefined,
  });
  server.on("entry", (tag, time, record) => {
    if (!(time instanceof EventTime)) throw new Error(`no EventTime: ${time}`);
    say({ tag, sec: time.epoch, nano: time.nano, record });
  });
  await server.listen();
  say({ port: server.port });
  await dismissed;
  process.exit(0);
});
