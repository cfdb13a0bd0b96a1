// The pinned wasm compiler, which remembers what it made of an input: the same input always gives the same output.
"use strict";

const fs = require("fs");
const path = require("path");
const { createHash } = require("crypto");
const { createRequire } = require("module");

const TOOLS = process.env.CONTRACT_TOOLS;
const REMEMBERED = path.join(TOOLS, "compiled"); // goes with the compiler
const DAYS_KEPT = 30;

const fromTools = createRequire(path.join(TOOLS, "node_modules", "."));
const load = () => fromTools("solc"); // takes half a second

// What the compiler makes of a standard JSON input that holds all of its sources, as text.
function compile(input) {
  const file = path.join(REMEMBERED, createHash("sha256").update(input).digest("hex"));
  try {
    const output = fs.readFileSync(file, "utf8");
    fs.utimesSync(file, new Date(), new Date());
    return output;
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  const output = load().compile(input);
  fs.mkdirSync(REMEMBERED, { recursive: true });
  fs.writeFileSync(`${file}.${process.pid}`, output);
  fs.renameSync(`${file}.${process.pid}`, file);
  forgetOld();
  return output;
}

function forgetOld() {
  const oldest = Date.now() - DAYS_KEPT * 24 * 3600 * 1000;
  for (const name of fs.readdirSync(REMEMBERED)) {
    const file = path.join(REMEMBERED, name);
    const found = fs.statSync(file, { throwIfNoEntry: false }); // another compiler may have been quicker
    if (found && found.mtimeMs < oldest) fs.rmSync(file, { force: true });
  }
}

module.exports = { compile, fromTools, load };
