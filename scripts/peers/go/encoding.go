// The small encodings of the peer: uuids, JSON strings, and text that PostgreSQL takes.
package main

import (
	"bytes"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"math/rand"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"
)

// idSource makes uuids of version 7 (RFC 9562): milliseconds, then random bits.
// The generators are pooled because the one of the package is behind a lock.
type idSource struct{ generators *sync.Pool }

func newIDSource() idSource {
	return idSource{&sync.Pool{New: func() interface{} {
		var seed [8]byte
		if _, err := crand.Read(seed[:]); err != nil {
			panic(err)
		}
		return rand.New(rand.NewSource(int64(binary.BigEndian.Uint64(seed[:]))))
	}}}
}

func (s idSource) next(at time.Time) (id [16]byte) {
	generator := s.generators.Get().(*rand.Rand)
	high, low := generator.Uint64(), generator.Uint64()
	s.generators.Put(generator)
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|0x7000|high&0x0fff)
	binary.BigEndian.PutUint64(id[8:], 0x8000000000000000|low>>2)
	return id
}

func appendUUID(b []byte, id [16]byte) []byte {
	var text [36]byte
	hex.Encode(text[:], id[:4])
	text[8] = '-'
	hex.Encode(text[9:], id[4:6])
	text[13] = '-'
	hex.Encode(text[14:], id[6:8])
	text[18] = '-'
	hex.Encode(text[19:], id[8:10])
	text[23] = '-'
	hex.Encode(text[24:], id[10:])
	return append(b, text[:]...)
}

func parseUUID(text []byte, id *[16]byte) bool {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return false
	}
	var digits [32]byte
	n := copy(digits[:], text[:8])
	n += copy(digits[n:], text[9:13])
	n += copy(digits[n:], text[14:18])
	n += copy(digits[n:], text[19:23])
	copy(digits[n:], text[24:])
	_, err := hex.Decode(id[:], digits[:])
	return err == nil
}

// appendText appends what a client sent so that PostgreSQL takes it: valid UTF-8.
func appendText(b, text []byte) []byte {
	if utf8.Valid(text) {
		return append(b, text...)
	}
	return append(b, bytes.ToValidUTF8(text, []byte("\uFFFD"))...)
}

func appendParams(b []byte, args *fasthttp.Args) []byte {
	b = append(b, '{')
	first := true
	args.VisitAll(func(key, value []byte) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendJSONString(b, key)
		b = append(b, ':')
		b = appendJSONString(b, value)
	})
	return append(b, '}')
}

func appendJSONString(b, text []byte) []byte {
	b = append(b, '"')
	for len(text) > 0 {
		plain := 0
		for plain < len(text) && isPlain(text[plain]) {
			plain++
		}
		b = append(b, text[:plain]...)
		text = text[plain:]
		if len(text) > 0 {
			r, size := utf8.DecodeRune(text)
			b = appendJSONRune(b, r)
			text = text[size:]
		}
	}
	return append(b, '"')
}

func isPlain(c byte) bool {
	return c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\'
}

// appendJSONRune escapes where JSON asks for it and replaces NUL, which PostgreSQL cannot hold.
func appendJSONRune(b []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	switch {
	case r == 0:
		return utf8.AppendRune(b, utf8.RuneError)
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r < ' ':
		return append(b, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
	default:
		return utf8.AppendRune(b, r)
	}
}
