// DERP inside of a WebSocket in the fewest words: the login, frames, packets. Runs in a page and in Node; `nacl` is TweetNaCl.

export const kinds = {
  serverKey: 0x01, clientInfo: 0x02, serverInfo: 0x03, sendPacket: 0x04, recvPacket: 0x05, keepAlive: 0x06, peerGone: 0x08,
  ping: 0x12, pong: 0x13,
}

const magic = [0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91]
const patience = 20_000

export function frame(kind, ...parts) {
  const payload = concat(...parts)
  const header = new Uint8Array(5)
  header[0] = kind
  new DataView(header.buffer).setUint32(1, payload.length)
  return concat(header, payload)
}

export function concat(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

// Bytes that differ from place to place and from seed to seed.
export function noise(seed, size) {
  const bytes = new Uint8Array(size)
  let state = (seed * 0x9e3779b1 + 1) >>> 0
  for (let i = 0; i < size; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    bytes[i] = state
  }
  return bytes
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export function same(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at])
}

export function check(truth, complaint) {
  if (!truth) throw new Error(complaint)
}

// A session over any socket with the browsers' interface, Node's ws included.
export class Session {
  constructor(socket, nacl) {
    this.socket = socket
    this.nacl = nacl
    this.keys = nacl.box.keyPair()
    this.rest = new Uint8Array()
    this.frames = []
    this.waiting = null
    this.largest = 0 // message that the relay sent
    socket.binaryType = 'arraybuffer'
    socket.addEventListener('message', (event) => this.take(event.data))
    this.opened = new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve)
      socket.addEventListener('close', (event) => reject(new Error(`closed with ${event.code} before it was open`)))
    })
    this.opened.catch(() => {})
    this.closed = new Promise((resolve) => {
      socket.addEventListener('close', (event) => {
        resolve({ code: event.code, clean: event.wasClean })
        this.wake()
      })
    })
    socket.addEventListener('error', () => {}) // 'close' follows, and says more
  }

  get publicKey() {
    return this.keys.publicKey
  }

  take(data) {
    if (!(data instanceof ArrayBuffer)) {
      this.fault = 'the relay sent a text message'
      return this.wake()
    }
    this.largest = Math.max(this.largest, data.byteLength)
    let all = concat(this.rest, new Uint8Array(data))
    while (all.length >= 5) {
      const size = 5 + new DataView(all.buffer, all.byteOffset).getUint32(1)
      if (all.length < size) break
      if (all[0] !== kinds.keepAlive) this.frames.push({ kind: all[0], payload: all.slice(5, size) })
      all = all.subarray(size)
    }
    this.rest = all.slice()
    this.wake()
  }

  wake() {
    this.waiting?.()
  }

  // The next frame, which has to be of this kind.
  async next(kind) {
    const late = Date.now() + patience
    while (this.frames.length === 0) {
      check(!this.fault, this.fault)
      check(this.socket.readyState < 2, `the connection closed while frame ${kind} was expected`)
      check(Date.now() < late, `frame ${kind} did not come within ${patience} ms`)
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000)
        this.waiting = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    const next = this.frames.shift()
    check(next.kind === kind, `got frame ${next.kind} of ${next.payload.length} bytes instead of frame ${kind}`)
    return next.payload
  }

  async greeting() {
    await this.opened
    const payload = await this.next(kinds.serverKey)
    check(payload.length === 40 && same(payload.subarray(0, 8), magic), `ServerKey is ${hex(payload)}`)
    this.server = payload.slice(8)
  }

  clientInfo() {
    const info = new TextEncoder().encode('{"version":2,"CanAckPings":true}')
    const nonce = this.nacl.randomBytes(24)
    const sealed = this.nacl.box(info, nonce, this.server, this.keys.secretKey)
    return frame(kinds.clientInfo, this.publicKey, nonce, sealed)
  }

  async serverInfo() {
    const payload = await this.next(kinds.serverInfo)
    const opened = this.nacl.box.open(payload.subarray(24), payload.subarray(0, 24), this.server, this.keys.secretKey)
    check(opened, 'ServerInfo was not sealed for us')
    const info = JSON.parse(new TextDecoder().decode(opened))
    check(info.version === 2, `ServerInfo says version ${info.version}`)
  }

  async login() {
    await this.greeting()
    this.socket.send(this.clientInfo())
    await this.serverInfo()
    return this
  }

  packet(to, data) {
    return frame(kinds.sendPacket, to, data)
  }

  // The next frame is this packet from there.
  async wantPacket(from, data) {
    const payload = await this.next(kinds.recvPacket)
    check(same(payload.subarray(0, 32), from), `a packet from ${hex(payload.subarray(0, 32))}, not from ${hex(from)}`)
    check(same(payload.subarray(32), data), `a packet of ${payload.length - 32} bytes is not the one of ${data.length}`)
  }

  async echo(data) {
    this.socket.send(this.packet(this.publicKey, data))
    await this.wantPacket(this.publicKey, data)
  }

  async wantPong(text = 'are you?') {
    this.socket.send(frame(kinds.ping, new TextEncoder().encode(text)))
    const payload = await this.next(kinds.pong)
    check(new TextDecoder().decode(payload) === text, `the pong says ${hex(payload)}`)
  }

  async wantClosed(...codes) {
    let timer
    const late = new Promise((resolve) => (timer = setTimeout(() => resolve({ code: 'nothing' }), patience)))
    const { code, clean } = await Promise.race([this.closed, late])
    clearTimeout(timer)
    check(codes.includes(code), `closed with ${code}, not with ${codes}`)
    return clean
  }
}

// Runs named checks one after another; the report says of each what was wrong with it.
export async function judge(checks) {
  const report = []
  for (const [name, run] of Object.entries(checks)) {
    try {
      await run()
      report.push({ name })
    } catch (error) {
      report.push({ name, wrong: String(error?.stack ?? error) })
    }
  }
  return report
}
