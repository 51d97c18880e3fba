#!/usr/bin/env bash
# Builds what `make test-istio` runs against into FOLDER: kine, kube-apiserver, kubectl, istiod
# (pilot-discovery) and istioctl into FOLDER/bin, and the CRDs of Istio and of the Gateway API into
# FOLDER/crds. Needs Go, a Go module proxy and some 10 GB of disk while it builds; 600 MB stay. What
# is built already is not built again, so that a run which was cut off goes on where it ended.
set -euo pipefail
folder=$(realpath -m "${1:?the folder to build into}")

# The only istiod that the Go module proxies serve: the 1.31 branch of 2026-08-27.
readonly ISTIO=v0.0.0-20260827124520-eed52ebb66ad
readonly KUBERNETES=v1.36.3 KUBERNETES_PARTS=v0.36.3
readonly KINE=v0.16.4 GATEWAY_API=v1.6.0

command -v go > /dev/null || { echo "make test-istio builds istiod and a Kubernetes API server, which needs Go: apt-get install golang-go" >&2; exit 1; }
mkdir -p "$folder/bin" "$folder/crds/istio" "$folder/crds/gateway-api" "$folder/build"
export CGO_ENABLED=0 GOBIN=$folder/bin GOPATH=$folder/build/go GOCACHE=$folder/build/cache
export GOFLAGS="-buildvcs=false -modcacherw -ldflags=-s"

built() { [ -x "$folder/bin/$1" ] || { echo "building $1" && false; }; }

built kine || go install "github.com/k3s-io/kine@$KINE"

# Kubernetes' own go.mod replaces its parts by folders beside it, so `go install` refuses it: a
# module of ours requires it and replaces those parts by their released versions.
if ! built kube-apiserver || ! built kubectl; then
  mkdir -p "$folder/build/kubernetes" && cd "$folder/build/kubernetes"
  theirs=$(cd / && go mod download -json "k8s.io/kubernetes@$KUBERNETES" | sed -n 's/^.*"GoMod": "\(.*\)",$/\1/p')
  {
    echo "module meshwarden.io/kubernetes"
    echo "go $(awk '/^go /{print $2}' "$theirs")"
    echo "require k8s.io/kubernetes $KUBERNETES"
    echo "replace ("
    awk -v version="$KUBERNETES_PARTS" '$2 == "=>" && $3 ~ /^\.\/staging/ {print "\t" $1 " => " $1 " " version}' "$theirs"
    echo ")"
  } > go.mod
  {
    echo "package tools"
    echo 'import _ "k8s.io/kubernetes/cmd/kube-apiserver"'
    echo 'import _ "k8s.io/kubernetes/cmd/kubectl"'
  } > tools.go
  go mod tidy
  [ -x "$folder/bin/kube-apiserver" ] || go build -o "$folder/bin/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
  [ -x "$folder/bin/kubectl" ] || go build -o "$folder/bin/kubectl" k8s.io/kubernetes/cmd/kubectl
fi

cd "$folder/build"
built pilot-discovery || go install "istio.io/istio/pilot/cmd/pilot-discovery@$ISTIO"
built istioctl || go install "istio.io/istio/istioctl/cmd/istioctl@$ISTIO"

module() { go mod download -json "$1" | sed -n 's/^.*"Dir": "\(.*\)",$/\1/p'; }
cp "$(module istio.io/istio@$ISTIO)/manifests/charts/base/files/crd-all.gen.yaml" "$folder/crds/istio/"
cp "$(module sigs.k8s.io/gateway-api@$GATEWAY_API)"/config/crd/experimental/gateway*.yaml "$folder/crds/gateway-api/"
rm -rf "$folder/build"
