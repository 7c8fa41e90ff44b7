#!/bin/sh
# Runs once, on an empty data folder: one role and one database each, so that no service can read another's.
set -eu
make() {
  psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --set=role="$1" --set=password="$2" <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"role" OWNER :"role";
REVOKE CONNECT ON DATABASE :"role" FROM PUBLIC;
SQL
}
make mlflow "$MLFLOW_PASSWORD"
make feast "$FEAST_PASSWORD"
make prediction_log "$PREDICTION_LOG_PASSWORD"
