// One suite for every Store; what only files can do wrong has tests of its own.
#include "server/coordinator/store.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

Change Put(std::string key, std::string value) {
  return {Change::Kind::kPut, std::move(key), std::move(value)};
}
Change Erase(std::string prefix) { return {Change::Kind::kErasePrefix, std::move(prefix), ""}; }

class StoreTest : public ::testing::TestWithParam<bool> {
 protected:
  StoreTest()
      : path_(std::filesystem::temp_directory_path() /
              ("muond-store-" + std::to_string(getpid()) + ".db")) {
    Remove();
  }
  ~StoreTest() override { Remove(); }
  void Remove() {
    for (const char* suffix : {"", "-wal", "-shm"})
      std::filesystem::remove(path_.string() + suffix);
  }
  std::unique_ptr<Store> Open() {
    return GetParam() ? *OpenSqliteStore(path_) : CreateMemoryStore();
  }
  const std::filesystem::path path_;
};

TEST_P(StoreTest, ScansByPrefixInOrder) {
  const std::unique_ptr<Store> store = Open();
  const std::string binary("\0\xff x", 4);
  ASSERT_TRUE(store
                  ->Commit(std::vector<Change>{Put("b/2", "two"), Put("b/1", binary), Put("c", ""),
                                               Put("a", "1")})
                  .ok());
  EXPECT_THAT(*store->Scan("b/"), ElementsAre(Pair("b/1", binary), Pair("b/2", "two")));
  EXPECT_THAT(*store->Scan("c"), ElementsAre(Pair("c", "")));
  EXPECT_EQ(store->Scan("")->size(), 4u);
}

TEST_P(StoreTest, ChangesApplyInOrderAndErasesTakePrefixesOnly) {
  const std::unique_ptr<Store> store = Open();
  ASSERT_TRUE(store
                  ->Commit(std::vector<Change>{Put("job/1/x", "old"), Put("job/10/x", "other"),
                                               Put("job/1/y", "old")})
                  .ok());
  ASSERT_TRUE(store->Commit(std::vector<Change>{Erase("job/1/"), Put("job/1/x", "new")}).ok());
  EXPECT_THAT(*store->Scan("job/"), ElementsAre(Pair("job/1/x", "new"), Pair("job/10/x", "other")));
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Sqlite" : "Memory"; });

class SqliteStoreTest : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(File, SqliteStoreTest, ::testing::Values(true));

TEST_P(SqliteStoreTest, WhatWasCommittedIsThereAfterReopening) {
  ASSERT_TRUE(Open()->Commit(std::vector<Change>{Put("k", "v")}).ok());
  EXPECT_THAT(*Open()->Scan(""), ElementsAre(Pair("k", "v")));
}

TEST_P(SqliteStoreTest, ASecondCoordinatorIsTurnedAway) {
  const std::unique_ptr<Store> first = Open();
  const absl::Status second = OpenSqliteStore(path_).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable) << second;
}

TEST_P(SqliteStoreTest, AFileOfSomethingElseIsRefusedAndLeftAlone) {
  const std::string text(5000, 'x');
  std::ofstream(path_) << text;
  EXPECT_EQ(OpenSqliteStore(path_).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::filesystem::file_size(path_), text.size());
}

TEST_P(SqliteStoreTest, AFolderThatIsMissingIsSaidSo) {
  EXPECT_EQ(OpenSqliteStore("/nonexistent/folder/store.db").status().code(),
            absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace muond
