// How a peer takes its orders (the first line of standard input, JSON) and answers (lines of JSON).
"use strict";
const fs = require("fs");
const readline = require("readline");

const lines = readline.createInterface({ input: process.stdin });

exports.taken = new Promise((resolve) => lines.once("line", (line) => resolve(JSON.parse(line))));

exports.say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");

// The end of standard input: nothing more is wanted.
exports.dismissed = new Promise((resolve) => lines.once("close", resolve));

exports.read = (path) => (path ? fs.readFileSync(path) : undefined);
