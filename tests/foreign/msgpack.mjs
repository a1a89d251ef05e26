// As much of MessagePack as a client of trio_rooms needs, to show how much that is.

const text = { encoder: new TextEncoder(), decoder: new TextDecoder("utf-8", { fatal: true }) };

export function encode(value) {
  const out = [];
  write(out, value);
  return Uint8Array.from(out);
}

function write(out, value) {
  if (value === null || value === undefined) out.push(0xc0);
  else if (typeof value === "boolean") out.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") writeNumber(out, value);
  else if (typeof value === "string") {
    const bytes = text.encoder.encode(value);
    if (bytes.length < 32) out.push(0xa0 | bytes.length);
    else writeSize(out, bytes.length, [0xd9, 0xda, 0xdb]);
    append(out, bytes);
  } else if (value instanceof Uint8Array) {
    writeSize(out, value.length, [0xc4, 0xc5, 0xc6]);
    append(out, value);
  } else if (Array.isArray(value)) {
    if (value.length < 16) out.push(0x90 | value.length);
    else writeSize(out, value.length, [null, 0xdc, 0xdd]);
    for (const one of value) write(out, one);
  } else {
    const entries = Object.entries(value);
    if (entries.length < 16) out.push(0x80 | entries.length);
    else writeSize(out, entries.length, [null, 0xde, 0xdf]);
    for (const [key, one] of entries) {
      write(out, key);
      write(out, one);
    }
  }
}

function append(out, bytes) {
  for (const byte of bytes) out.push(byte);
}

function writeNumber(out, value) {
  const view = new DataView(new ArrayBuffer(8));
  if (Number.isSafeInteger(value)) {
    if (value >= -32 && value < 128) {
      out.push(value & 0xff);
      return;
    }
    out.push(0xd3);
    view.setBigInt64(0, BigInt(value));
  } else {
    out.push(0xcb);
    view.setFloat64(0, value);
  }
  append(out, new Uint8Array(view.buffer));
}

// The size in one, two or four bytes, behind the code of that width.
function writeSize(out, size, [one, two, four]) {
  if (one !== null && size < 0x100) out.push(one, size);
  else if (size < 0x10000) out.push(two, size >> 8, size & 0xff);
  else out.push(four, size >>> 24, (size >> 16) & 0xff, (size >> 8) & 0xff, size & 0xff);
}

export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new Error("something stands behind the value");
  return value;
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  value() {
    const code = this.take(1)[0];
    if (code < 0x80) return code;
    if (code < 0x90) return this.map(code & 0x0f);
    if (code < 0xa0) return this.array(code & 0x0f);
    if (code < 0xc0) return this.text(code & 0x1f);
    if (code >= 0xe0) return code - 0x100;
    switch (code) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.take(this.number("Uint8", 1));
      case 0xc5: return this.take(this.number("Uint16", 2));
      case 0xc6: return this.take(this.number("Uint32", 4));
      case 0xca: return this.number("Float32", 4);
      case 0xcb: return this.number("Float64", 8);
      case 0xcc: return this.number("Uint8", 1);
      case 0xcd: return this.number("Uint16", 2);
      case 0xce: return this.number("Uint32", 4);
      case 0xcf: return Number(this.number("BigUint64", 8));
      case 0xd0: return this.number("Int8", 1);
      case 0xd1: return this.number("Int16", 2);
      case 0xd2: return this.number("Int32", 4);
      case 0xd3: return Number(this.number("BigInt64", 8));
      case 0xd9: return this.text(this.number("Uint8", 1));
      case 0xda: return this.text(this.number("Uint16", 2));
      case 0xdb: return this.text(this.number("Uint32", 4));
      case 0xdc: return this.array(this.number("Uint16", 2));
      case 0xdd: return this.array(this.number("Uint32", 4));
      case 0xde: return this.map(this.number("Uint16", 2));
      case 0xdf: return this.map(this.number("Uint32", 4));
      default: throw new Error(`0x${code.toString(16)} is not known here`);
    }
  }

  take(size) {
    if (this.at + size > this.bytes.length) throw new Error("the message is cut short");
    this.at += size;
    return this.bytes.slice(this.at - size, this.at);
  }

  number(kind, size) {
    const at = this.at;
    this.take(size);
    return this.view[`get${kind}`](at);
  }

  text(size) {
    return text.decoder.decode(this.take(size));
  }

  array(size) {
    return Array.from({ length: size }, () => this.value());
  }

  map(size) {
    return Object.fromEntries(Array.from({ length: size }, () => [this.value(), this.value()]));
  }
}
