// Compiles the project's contracts with the pinned compiler and writes, or with --check compares, their artifacts.
// The same sources and settings always give the same bytes. Run by scripts/build_contract.
"use strict";

const fs = require("fs");
const path = require("path");
const { compile: compiled, fromTools, load } = require("./compiler.js");

const root = path.resolve(__dirname, "../../..");
const modules = path.join(process.env.CONTRACT_TOOLS, "node_modules");
const solc = load();
const { keccak256 } = fromTools("js-sha3");

const CONTRACTS = ["microwallet/escrow/contract/ChannelEscrow.sol", "microwallet/devnet/contract/TestUSDC.sol"];
const SETTINGS = JSON.parse(fs.readFileSync(path.join(__dirname, "settings.json"), "utf8"));
const CREATE2_FACTORY = "0x4e59b44847b379578588920cA78FbF26c0B4956C";
const CREATE2_SALT = "0x" + "00".repeat(32);

function checksum(address) {
  const digits = keccak256(address);
  return "0x" + [...address].map((c, i) => (parseInt(digits[i], 16) >= 8 ? c.toUpperCase() : c)).join("");
}

function create2Address(bytecode) {
  const parts = ["ff", CREATE2_FACTORY.slice(2), CREATE2_SALT.slice(2), keccak256(Buffer.from(bytecode, "hex"))];
  return checksum(keccak256(Buffer.from(parts.join(""), "hex")).slice(-40));
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

function compile() {
  const sources = {};
  const readSource = (name) => {
    const local = path.join(root, name);
    const contents = fs.readFileSync(fs.existsSync(local) ? local : path.join(modules, name), "utf8");
    sources[name] = { content: contents };
    return { contents };
  };
  CONTRACTS.forEach(readSource);
  const looking = { language: "Solidity", sources: { ...sources }, settings: { outputSelection: {} } };
  solc.compile(JSON.stringify(looking), { import: readSource }); // finds what they import, in a second
  const input = {
    language: "Solidity",
    sources,
    settings: {
      ...SETTINGS,
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const output = JSON.parse(compiled(JSON.stringify(input)));
  const failures = (output.errors || []).filter((e) => e.severity === "error");
  if (failures.length) throw new Error(failures.map((e) => e.formattedMessage).join("\n"));
  return output.contracts;
}

function artifact(source, contracts) {
  const contractName = path.basename(source, ".sol");
  const { abi, evm } = contracts[source][contractName];
  const content = {
    contractName,
    compiler: { version: solc.version().replace(/\.Emscripten.*/, ""), settings: SETTINGS },
    abi,
    bytecode: "0x" + evm.bytecode.object,
    deployedBytecode: "0x" + evm.deployedBytecode.object,
    create2: { factory: CREATE2_FACTORY, salt: CREATE2_SALT, address: create2Address(evm.bytecode.object) },
  };
  return JSON.stringify(sorted(content), null, 2) + "\n";
}

const check = process.argv[2] === "--check";
const contracts = compile();
let stale = 0;
for (const source of CONTRACTS) {
  const target = source.replace(/\.sol$/, ".json");
  const file = path.join(root, target);
  const content = artifact(source, contracts);
  const current = fs.existsSync(file) && fs.readFileSync(file, "utf8") === content;
  if (!current && check) {
    console.error(`error: ${target} is stale: run scripts/build_contract`);
    stale += 1;
  } else if (!current) {
    fs.writeFileSync(file, content);
  }
  if (!stale) console.error(`${target}: ${current ? "up to date" : "rebuilt"}, ${JSON.parse(content).create2.address}`);
}
process.exit(stale ? 1 : 0);
