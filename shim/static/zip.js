// Files → one ZIP, uncompressed: pictures have no room left to shrink.

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
const NO_DATE = 0x21; // 1 January 1980, the first that a ZIP knows
const UTF8 = 0x800;

/** @typedef {{name: string, blob: Blob}} Entry */

/** @param {Entry[]} entries */
export async function zipOf(entries) {
  /** @type {BlobPart[]} */
  const parts = [];
  /** @type {BlobPart[]} */
  const directory = [];
  let [offset, directoryBytes] = [0, 0];
  for (const { name, blob } of entries) {
    const title = new TextEncoder().encode(name);
    const bytes = new Uint8Array(await blob.arrayBuffer());
    // Flags, method, time, date, CRC, both sizes, length of the name.
    const about = fields([UTF8, 2], [0, 2], [0, 2], [NO_DATE, 2], [crcOf(bytes), 4], [bytes.length, 4], [bytes.length, 4]);
    const head = fields([0x04034b50, 4], [20, 2]);
    parts.push(head, about, fields([title.length, 2], [0, 2]), title, bytes);
    const listed = fields([title.length, 2], [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]);
    directory.push(fields([0x02014b50, 4], [20, 2], [20, 2]), about, listed, title);
    offset += 30 + title.length + bytes.length;
    directoryBytes += 46 + title.length;
  }
  const count = entries.length;
  const end = fields([0x06054b50, 4], [0, 4], [count, 2], [count, 2], [directoryBytes, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/**
 * Little-endian.
 * @param {[value: number, bytes: number][]} values
 */
function fields(...values) {
  return Uint8Array.from(
    values.flatMap(([value, bytes]) => Array.from({ length: bytes }, (_, place) => (value >>> (8 * place)) & 0xff)),
  );
}

/** @param {Uint8Array} bytes */
function crcOf(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}
