package retrieval

import (
	"context"
	"net/http"

	"github.com/countersign/countersign/internal/gateway"
)

func (d *Desk) serveMCP(context.Context, job, *http.Request) (*http.Response, error) {
	return nil, gateway.ErrTransport
}
