package secrets

import (
	"context"

	"github.com/countersign/countersign/internal/audit"
)

// Keep seals a value that another package of secrets stores, bound to label,
// which says whose it is.
func (s *Service) Keep(label string, v Value) ([]byte, error) {
	learn(s.matcher, label, v) // first, so that nothing can write it
	return s.master.aead.Encrypt(v.Expose(), []byte("countersign kept v1\x00"+label))
}

// Kept opens what Keep sealed under the same label.
func (s *Service) Kept(label string, sealed []byte) (Value, error) {
	plain, err := s.master.aead.Decrypt(sealed, []byte("countersign kept v1\x00"+label))
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
