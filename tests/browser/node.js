// Node's ws as the judge of a relay: the first argument is the relay's URL, the second the file of its root certificate.
// Prints a report in JSON.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

import nacl from 'tweetnacl'
import WebSocket from 'ws'

import { Session, check, concat, frame, judge, kinds, noise } from './derp.js'

const { values: flags, positionals: [url] } = parseArgs({
  allowPositionals: true,
  options: { ca: { type: 'string' }, address: { type: 'string' }, limit: { type: 'string' } },
})
const limit = Number(flags.limit) // bytes of a message that the relay takes
const ca = flags.ca && readFileSync(flags.ca)

function connect(protocols = ['derp']) {
  const lookup = (_host, options, found) =>
    options.all ? found(null, [{ address: flags.address, family: 4 }]) : found(null, flags.address, 4)
  // Compression is offered, so that it can be declined.
  return new Session(new WebSocket(url, protocols, { ca, lookup, perMessageDeflate: true }), nacl)
}

async function withSession(run) {
  const session = await connect().login()
  try {
    await run(session, session.socket)
  } finally {
    session.socket.terminate()
  }
}

const sizes = [0, 1, 100, 1400, 16 << 10, 32 << 10, 60 << 10, 65536].filter((size) => size + 37 <= limit)

const report = await judge({
  'subprotocol and no compression': () =>
    withSession((_, socket) => {
      check(socket.protocol === 'derp', `the subprotocol is ${socket.protocol}`)
      check(socket.extensions === '', `the extensions are ${socket.extensions}`)
    }),
  'packets to itself': () =>
    withSession(async (session) => {
      for (const size of sizes) await session.echo(noise(size, size))
      // Go's clients, Tailscale's in browsers among them, take no more in one message.
      check(session.largest <= 32768 || limit <= 32768, `the relay sent a message of ${session.largest} bytes`)
    }),
  'packets between two': () =>
    withSession((alice) =>
      withSession(async (bob) => {
        for (const size of sizes) {
          alice.socket.send(alice.packet(bob.publicKey, noise(size, size)))
          await bob.wantPacket(alice.publicKey, noise(size, size))
          bob.socket.send(bob.packet(alice.publicKey, noise(size + 1, size)))
          await alice.wantPacket(bob.publicKey, noise(size + 1, size))
        }
      })),
  'a login in many messages': async () => {
    const session = connect()
    await session.greeting()
    for (const byte of session.clientInfo()) session.socket.send(Uint8Array.of(byte))
    await session.serverInfo()
    await session.wantPong()
    session.socket.terminate()
  },
  'many frames in one message': () =>
    withSession(async (session, socket) => {
      const packets = Array.from({ length: 30 }, (_, n) => noise(n, n * 15))
      socket.send(concat(...packets.map((data) => session.packet(session.publicKey, data))))
      for (const data of packets) await session.wantPacket(session.publicKey, data)
    }),
  'one frame in many messages': () =>
    withSession(async (session, socket) => {
      const data = noise(7, 3000)
      const bytes = session.packet(session.publicKey, data)
      for (let at = 0; at < bytes.length; at += 13) socket.send(bytes.subarray(at, at + 13))
      await session.wantPacket(session.publicKey, data)
    }),
  'one message in many fragments': () =>
    withSession(async (session, socket) => {
      const data = noise(8, 30000)
      const bytes = session.packet(session.publicKey, data)
      for (let at = 0; at < bytes.length; at += 997) {
        socket.send(bytes.subarray(at, at + 997), { fin: at + 997 >= bytes.length })
      }
      await session.wantPacket(session.publicKey, data)
    }),
  'pings and pongs': () =>
    withSession(async (session, socket) => {
      for (const text of ['', 'Hello', 'x'.repeat(125)]) {
        const pong = new Promise((resolve) => socket.once('pong', (data) => resolve(String(data))))
        socket.ping(text)
        check((await pong) === text, 'the pong says something else')
      }
      socket.pong('unsolicited')
      await session.wantPong()
    }),
  'DERP pings': () => withSession((session) => session.wantPong()),
  'a burst of packets': () =>
    withSession(async (session, socket) => {
      const packets = Array.from({ length: 25 }, (_, n) => noise(n, Math.min(60000, limit - 37)))
      for (const data of packets) socket.send(session.packet(session.publicKey, data))
      for (const data of packets) await session.wantPacket(session.publicKey, data)
    }),
  'closing with 1000': () =>
    withSession(async (session, socket) => {
      socket.close(1000)
      check(await session.wantClosed(1000), 'the close is not clean')
    }),
  'closing with 4000 and a reason': () =>
    withSession(async (session, socket) => {
      socket.close(4000, 'enough of this')
      check(await session.wantClosed(4000, 1000), 'the close is not clean')
    }),
  'closing without a code': () =>
    withSession(async (session, socket) => {
      socket.close()
      check(await session.wantClosed(1005, 1000), 'the close is not clean')
    }),
  'closing before the login': async () => {
    const session = connect()
    await session.greeting()
    session.socket.close(1000)
    check(await session.wantClosed(1000), 'the close is not clean')
  },
  'a text message': () =>
    withSession(async (session, socket) => {
      socket.send('Hello')
      check(await session.wantClosed(1003), 'the close is not clean')
    }),
  'a message that is too large': () =>
    withSession(async (session, socket) => {
      // 1006: the Close frame was lost to a reset, as more was on its way.
      socket.send(frame(0x77, new Uint8Array(256 << 10)))
      await session.wantClosed(1009, 1006)
    }),
  'another subprotocol': async () => {
    const session = connect(['chat', 'derpx'])
    // ws finds that it has asked for subprotocols and got none.
    await session.wantClosed(1006, 1008)
  },
  'unexpected frames close nothing': () =>
    withSession(async (session, socket) => {
      socket.send(frame(0x77, noise(1, 1000)))
      socket.send(frame(kinds.pong, new Uint8Array(8)))
      await session.wantPong()
    }),
})
console.log(JSON.stringify(report))
