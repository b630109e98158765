package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// The bytes of a packet follow from who sent it to whom (its tag) and its number, so a receiver can tell a packet that was
// cut, mixed with another, repeated or led astray from one that is merely missing.

const (
	stampBytes = 16 // tag and number at the front of every packet that is large enough
	maxPacket  = 64 << 10
	discoMin   = 62
)

var discoMagic = []byte("TS\xf0\x9f\x92\xac")

// packet makes the data packet with this tag and number. Its first byte is zero or, below stampBytes, arbitrary; either way
// it does not pass for disco.
func packet(tag, number uint64, size int) []byte {
	data := make([]byte, size)
	fill(data, tag, number)
	if size >= stampBytes {
		binary.BigEndian.PutUint64(data, tag)
		binary.BigEndian.PutUint64(data[8:], number)
	}
	return data
}

// disco makes a packet that relays treat as disco. Its size must be at least discoMin plus stampBytes.
func disco(tag, number uint64, size int) []byte {
	data := append(bytes.Clone(discoMagic), packet(tag, number, size-len(discoMagic))...)
	return data
}

// stamp reads back whose packet this is, of either kind, after checking every byte of it.
func stamp(data []byte) (tag, number uint64, err error) {
	body := bytes.TrimPrefix(data, discoMagic)
	if len(body) < stampBytes {
		return 0, 0, fmt.Errorf("a packet of %d bytes carries no stamp", len(data))
	}
	tag, number = binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	if want := packet(tag, number, len(body)); !bytes.Equal(body, want) {
		return tag, number, fmt.Errorf("packet %d of %#x is damaged: %s", number, tag, difference(body, want))
	}
	return tag, number, nil
}

func fill(data []byte, tag, number uint64) {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], tag)
	binary.BigEndian.PutUint64(seed[8:], number)
	binary.BigEndian.PutUint64(seed[16:], uint64(len(data)))
	rand.NewChaCha8(seed).Read(data)
}
