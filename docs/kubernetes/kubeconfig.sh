#!/bin/sh
# Prints a kubeconfig for the ServiceAccount airflow-asyncaction (rbac.yaml) on kubectl's current cluster:
#
#     sh kubeconfig.sh NAMESPACE [SECONDS] > FILE
#
# Its token is valid for SECONDS, by default one day. Workers that are pods of the same cluster need no kubeconfig:
# use in_cluster=True instead.
set -eu
namespace=${1:?usage: kubeconfig.sh NAMESPACE [SECONDS], with the namespace in which rbac.yaml was applied}
seconds=${2:-86400}
account=airflow-asyncaction

current() {
    kubectl config view --raw --minify --flatten --output "jsonpath={.clusters[0].cluster.$1}"
}

server=$(current server)
authority=$(current certificate-authority-data)
token=$(
    printf '{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": %s}}' \
        "$seconds" |
        kubectl create --raw "/api/v1/namespaces/$namespace/serviceaccounts/$account/token" --filename - |
        sed 's/.*"token":"\([^"]*\)".*/\1/'
)

[ -n "$token" ] || {
    echo "cannot create a token for the ServiceAccount $account in the namespace $namespace: apply rbac.yaml there first" >&2
    exit 1
}

cat <<EOF
apiVersion: v1
kind: Config
current-context: $account
clusters:
  - name: cluster
    cluster: {server: "$server", certificate-authority-data: "$authority"}
users:
  - name: $account
    user: {token: "$token"}
contexts:
  - name: $account
    context: {cluster: cluster, user: $account, namespace: "$namespace"}
EOF
