package model

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"math"
	"net/http"
)

const (
	defaultDimensions = 256
	maxDimensions     = 3072
	maxInputs         = 2048
)

// embeddings answers with unit vectors derived from the text's digest: equal
// texts are equal, different texts are nearly orthogonal.
func (x *exchange) embeddings() {
	var q struct {
		Model          string         `json:"model"`
		Input          jsontext.Value `json:"input"`
		EncodingFormat string         `json:"encoding_format"`
		Dimensions     int            `json:"dimensions"`
	}
	if !x.decode(&q) {
		return
	}
	inputs, err := embeddingInputs(q.Input)
	if err != nil {
		x.fail(http.StatusBadRequest, err.Error())
		return
	}
	if q.Dimensions == 0 {
		q.Dimensions = defaultDimensions
	}
	if q.Dimensions < 1 || q.Dimensions > maxDimensions {
		x.fail(http.StatusBadRequest, fmt.Sprintf("dimensions must be from 1 to %d", maxDimensions))
		return
	}
	if !x.ready(q.Model, false) {
		return
	}
	data, used := []obj{}, int64(0)
	for i, text := range inputs {
		used += tokens(text)
		v := embed(text, q.Dimensions)
		item := obj{"object": "embedding", "index": i, "embedding": v}
		if q.EncodingFormat == "base64" {
			item["embedding"] = packed(v)
		}
		data = append(data, item)
	}
	writeJSON(x.w, http.StatusOK, obj{"object": "list", "model": q.Model, "data": data,
		"usage": obj{"prompt_tokens": used, "total_tokens": used}})
}

// embeddingInputs reads a text, texts, a token array or token arrays.
func embeddingInputs(v jsontext.Value) ([]string, error) {
	if v.Kind() == '"' {
		text, err := contentText(v)
		return []string{text}, err
	}
	var items []jsontext.Value
	if err := json.Unmarshal(v, &items); err != nil || len(items) == 0 || len(items) > maxInputs {
		return nil, fmt.Errorf("input must be a text or an array of 1 to %d texts or token arrays", maxInputs)
	}
	if items[0].Kind() == '0' {
		return []string{string(v)}, nil
	}
	texts := make([]string, 0, len(items))
	for i, item := range items {
		switch item.Kind() {
		case '"':
			text, err := contentText(item)
			if err != nil {
				return nil, fmt.Errorf("input[%d]: %w", i, err)
			}
			texts = append(texts, text)
		case '[':
			texts = append(texts, string(item))
		default:
			return nil, fmt.Errorf("input[%d] is neither a text nor an array of tokens", i)
		}
	}
	return texts, nil
}

func embed(text string, dimensions int) []float32 {
	out := make([]float32, dimensions)
	seed := sha256.Sum256([]byte(text))
	block, sum := seed, 0.0
	for i := range out {
		if i%16 == 0 {
			block = sha256.Sum256(append(seed[:], byte(i>>12), byte(i>>4)))
		}
		f := float64(binary.LittleEndian.Uint16(block[(i%16)*2:]))/32767.5 - 1
		out[i], sum = float32(f), sum+f*f
	}
	norm := float32(math.Sqrt(sum))
	for i := range out {
		out[i] /= norm
	}
	return out
}

// packed is a vector as little-endian floats in base64, the form that the
// official clients for Python and JavaScript ask for.
func packed(v []float32) string {
	b := make([]byte, 0, len(v)*4)
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
