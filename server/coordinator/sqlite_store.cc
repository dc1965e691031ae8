#include <sqlite3.h>

#include "absl/strings/str_format.h"
#include "server/coordinator/store.h"

namespace muond {
namespace {

using absl::StrFormat;

constexpr int kApplication = 0x6d756f6e;  // "muon": in the file's header
constexpr int kSchema = 1;

absl::Status Explain(sqlite3* database, int code, const std::string& what) {
  const std::string text = StrFormat(
      "store: %s: %s", what, database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(text + " (another coordinator has it open)");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(text);
    default:
      return absl::InternalError(text);
  }
}

// The end of the keys that start with `prefix`: the prefix with its last byte raised.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (!prefix.empty())
    prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

class Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    code_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int at, std::string_view bytes) {
    if (code_ == SQLITE_OK) {
      code_ = sqlite3_bind_blob64(statement_, at, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    }
    return *this;
  }
  // SQLITE_ROW, SQLITE_DONE, or an error.
  int Step() { return code_ == SQLITE_OK ? sqlite3_step(statement_) : code_; }
  std::string Bytes(int column) const {
    const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return data == nullptr
               ? ""
               : std::string(data, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
  }
  int Integer(int column) const { return sqlite3_column_int(statement_, column); }

 private:
  sqlite3* const database_;
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK;
};

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(sqlite3* database) : database_(database) {}
  ~SqliteStore() override { sqlite3_close(database_); }

  absl::Status Prepare() {
    // One coordinator a file: the lock is taken with the first statement and held until the process ends.
    for (const char* sql : {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL",
                            "PRAGMA synchronous = FULL", "BEGIN EXCLUSIVE"}) {
      if (absl::Status status = Run(sql); !status.ok()) return status;
    }
    absl::Status status = CheckSchema();
    if (status.ok()) status = Run("COMMIT");
    return status;
  }

  absl::Status Commit(absl::Span<const Change> changes) override {
    if (absl::Status status = Run("BEGIN IMMEDIATE"); !status.ok()) return status;
    for (const Change& change : changes) {
      if (absl::Status status = Apply(change); !status.ok()) {
        Run("ROLLBACK").IgnoreError();  // the first error is the one that tells
        return status;
      }
    }
    absl::Status status = Run("COMMIT");
    if (!status.ok()) Run("ROLLBACK").IgnoreError();
    return status;
  }

  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Scan(
      std::string_view prefix) override {
    Statement select(
        database_,
        "SELECT key, value FROM pairs WHERE key >= ?1 AND (?2 = x'' OR key < ?2) ORDER BY key");
    select.Bind(1, prefix).Bind(2, PrefixEnd(std::string(prefix)));
    std::vector<std::pair<std::string, std::string>> found;
    int code = select.Step();
    for (; code == SQLITE_ROW; code = select.Step())
      found.emplace_back(select.Bytes(0), select.Bytes(1));
    if (code != SQLITE_DONE) return Explain(database_, code, "scan");
    return found;
  }

 private:
  absl::Status Run(const char* sql) {
    const int code = sqlite3_exec(database_, sql, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : Explain(database_, code, sql);
  }

  absl::StatusOr<int> Pragma(const char* sql) {
    Statement statement(database_, sql);
    if (const int code = statement.Step(); code != SQLITE_ROW) return Explain(database_, code, sql);
    return statement.Integer(0);
  }

  absl::Status CheckSchema() {
    const absl::StatusOr<int> application = Pragma("PRAGMA application_id");
    if (!application.ok()) return application.status();
    const absl::StatusOr<int> schema = Pragma("PRAGMA user_version");
    if (!schema.ok()) return schema.status();
    if (*application == 0 && *schema == 0) {
      const absl::StatusOr<int> tables = Pragma("SELECT count(*) FROM sqlite_master");
      if (!tables.ok()) return tables.status();
      if (*tables > 0)
        return absl::FailedPreconditionError("store: the file is a database of something else");
      for (const std::string& sql :
           {std::string(
                "CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"),
            StrFormat("PRAGMA application_id = %d", kApplication),
            StrFormat("PRAGMA user_version = %d", kSchema)}) {
        if (absl::Status status = Run(sql.c_str()); !status.ok()) return status;
      }
      return absl::OkStatus();
    }
    if (*application != kApplication || *schema != kSchema) {
      return absl::FailedPreconditionError(
          StrFormat("store: application %#x, schema %d; expected %#x, %d", *application, *schema,
                    kApplication, kSchema));
    }
    return absl::OkStatus();
  }

  absl::Status Apply(const Change& change) {
    int code = SQLITE_OK;
    if (change.kind == Change::Kind::kPut) {
      Statement put(database_, "INSERT OR REPLACE INTO pairs (key, value) VALUES (?1, ?2)");
      code = put.Bind(1, change.key).Bind(2, change.value).Step();
    } else {
      Statement erase(database_, "DELETE FROM pairs WHERE key >= ?1 AND (?2 = x'' OR key < ?2)");
      code = erase.Bind(1, change.key).Bind(2, PrefixEnd(change.key)).Step();
    }
    return code == SQLITE_DONE ? absl::OkStatus()
                               : Explain(database_, code, "write of " + change.key);
  }

  sqlite3* const database_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path) {
  sqlite3* database = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &database,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (code != SQLITE_OK) {
    absl::Status status = Explain(database, code, path);
    sqlite3_close(database);
    return status;
  }
  auto store = std::make_unique<SqliteStore>(database);
  if (absl::Status status = store->Prepare(); !status.ok()) {
    return absl::Status(status.code(), StrFormat("%s: %s", path, status.message()));
  }
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace muond
