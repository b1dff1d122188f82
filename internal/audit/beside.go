package audit

import (
	"context"
	"crypto/rand"
	"encoding/binary"

	"github.com/countersign/countersign/internal/fault"
)

// ErrErased is returned for what was encrypted beside payloads that were erased
// since: nobody can read it any more.
var ErrErased = fault.New(fault.NotFound, "erased", "it was erased with the payloads of its agent")

// SealBeside encrypts plain with the data key of an agent, under which its
// payloads are: when they are erased, nobody can read it any more. bound says what
// it is for, and must be the same to open it. It must not be called inside a
// transaction.
func (l *Log) SealBeside(ctx context.Context, agent, bound string, plain []byte) ([]byte, error) {
	k, err := l.keys.get(ctx, l.keys.owner(agent, ""))
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint64(nil, uint64(k.id))
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // crypto/rand.Read never fails
	return k.aead.Seal(append(out, nonce...), nonce, plain, besideContext(bound)), nil
}

// OpenBeside returns what SealBeside encrypted; ErrErased if that key is gone.
func (l *Log) OpenBeside(ctx context.Context, agent, bound string, sealed []byte) ([]byte, error) {
	if err := l.keys.refresh(ctx); err != nil {
		return nil, err
	}
	k, err := l.keys.get(ctx, l.keys.owner(agent, ""))
	switch {
	case err != nil:
		return nil, err
	case len(sealed) < 8+nonceSize || binary.BigEndian.Uint64(sealed) != uint64(k.id):
		return nil, ErrErased
	}
	plain, err := k.aead.Open(nil, sealed[8:8+nonceSize], sealed[8+nonceSize:], besideContext(bound))
	if err != nil {
		return nil, ErrErased.With(err)
	}
	return plain, nil
}

// besideContext tells it from payloads.
func besideContext(bound string) []byte {
	return append([]byte("countersign beside payloads v1\x00"), bound...)
}
