package secrets

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
)

// KeepTx seals a value that another package of secrets stores in tx, bound to
// label, which says whose it is. Such a package must register who seals its
// rows anew (OnReseal).
func (s *Service) KeepTx(ctx context.Context, tx *audit.Tx, label string, v Value) ([]byte, error) {
	learn(s.matcher, label, v) // first, so that nothing can write it
	m, err := s.fenced(ctx, tx.Tx)
	if err != nil {
		return nil, err
	}
	return m.aead.Encrypt(v.Expose(), keptContext(label))
}

func keptContext(label string) []byte { return []byte("countersign kept v1\x00" + label) }

// Kept opens what KeepTx sealed under the same label.
func (s *Service) Kept(label string, sealed []byte) (Value, error) {
	plain, err := s.master.Load().decrypt(sealed, keptContext(label))
	if err != nil {
		return Value{}, ErrSealed.Say("a kept credential cannot be opened: it was sealed under another key or its row was altered")
	}
	v := boxed(plain)
	learn(s.matcher, label, v)
	return v, nil
}

// Unlearn makes the redactor forget what was kept under label, when it is dead.
func (s *Service) Unlearn(label string) { s.matcher.Remove(label) }

// Forget drops what was made of a secret if its Minted.Detail holds value under
// key, so that the next use makes another.
func (s *Service) Forget(secretID, key, value string) { s.minted.forget(secretID, key, value) }

// OnDelete registers fn to be asked, inside the transaction, before a secret is
// deleted: it may refuse. It must be called before the Service is used.
func (s *Service) OnDelete(fn func(ctx context.Context, tx *audit.Tx, sec Secret) error) {
	s.before = append(s.before, fn)
}
