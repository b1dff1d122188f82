package audittest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
)

// Keeper seals with a key made of its own text, so that a log opened again with
// an equal Keeper can be read, and with another cannot.
type Keeper string

func (k Keeper) aead() cipher.AEAD {
	key := sha256.Sum256([]byte(k))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES is a cipher for GCM
	}
	return aead
}

// Seal seals plain.
func (k Keeper) Seal(_ context.Context, plain []byte) ([]byte, error) {
	return k.aead().Seal(nil, nil, plain, nil), nil
}

// Open opens what Seal made.
func (k Keeper) Open(_ context.Context, sealed []byte) ([]byte, error) {
	return k.aead().Open(nil, nil, sealed, nil)
}
