// Package engines are search engines as tests need them: servers that answer
// the part of the wire of OpenSearch and Qdrant that retrieval connections use,
// as their documentation describes it, over documents in memory. They apply the
// filters they are asked for. They are not the engines themselves.
package engines
