// One suite for every Store; what only files can do wrong has tests of its own.
#include "server/coordinator/store.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/etcd_store.h"
#include "tests/support/etcd_under_test.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

Change Put(std::string key, std::string value) {
  return {Change::Kind::kPut, std::move(key), std::move(value)};
}
Change Erase(std::string prefix) { return {Change::Kind::kErasePrefix, std::move(prefix), ""}; }

enum class Kind { kMemory, kSqlite, kEtcd };

std::string NameOf(const ::testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kMemory ? "Memory" : info.param == Kind::kSqlite ? "Sqlite" : "Etcd";
}

// One etcd for all tests of this process; each has a prefix of its own in it.
EtcdUnderTest& Etcd() {
  static EtcdUnderTest etcd;
  return etcd;
}

class StoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kEtcd && !EtcdUnderTest::Installed())
      GTEST_SKIP() << "no etcd: " << EtcdUnderTest::kProgram;
  }
  std::unique_ptr<Store> Open() {
    if (GetParam() == Kind::kMemory) return CreateMemoryStore();
    if (GetParam() == Kind::kSqlite) return *OpenSqliteStore(path_);
    return *OpenEtcd(Lead());
  }

  // etcd: makes the leader's key anew, as one that wins an election does; the condition that it is still that one.
  EtcdCondition Lead() {
    const auto etcd = Etcd().Stub();
    const auto old = *etcd->Get(prefix_ + "leader");
    EXPECT_TRUE(etcd->Transact({prefix_ + "leader", old.create_revision},
                               {{EtcdOp::Kind::kErase, prefix_ + "leader", "", 0}})
                    ->done);
    const auto won = *etcd->Transact({prefix_ + "leader", 0},
                                     {{EtcdOp::Kind::kPut, prefix_ + "leader", "me", 0}});
    EXPECT_TRUE(won.done);
    return {prefix_ + "leader", won.revision};
  }
  absl::StatusOr<std::unique_ptr<Store>> OpenEtcd(const EtcdCondition& fence) {
    return OpenEtcdStore(
        {Etcd().Stub(), prefix_, fence, std::make_shared<std::atomic<bool>>(false)});
  }

  ScratchDirectory scratch_;
  const std::string path_ = scratch_ / "store.db";
  const std::string prefix_ =
      std::string("/") + ::testing::UnitTest::GetInstance()->current_test_info()->name() + "/";
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

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest,
                         ::testing::Values(Kind::kMemory, Kind::kSqlite, Kind::kEtcd), NameOf);

class DurableStoreTest : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(Durable, DurableStoreTest, ::testing::Values(Kind::kSqlite, Kind::kEtcd));

TEST_P(DurableStoreTest, WhatWasCommittedIsThereAfterReopening) {
  ASSERT_TRUE(Open()->Commit(std::vector<Change>{Put("k", "v"), Put("e", "")}).ok());
  EXPECT_THAT(*Open()->Scan(""), ElementsAre(Pair("e", ""), Pair("k", "v")));
}

TEST_P(DurableStoreTest, LargeValuesAndManyKeysAreOneCommit) {
  // More than etcd takes at once in both respects: 1.5 MiB, 128 operations.
  std::vector<Change> changes;
  for (int i = 0; i < 400; ++i) changes.push_back(Put("rank/" + std::to_string(1000 + i), "r"));
  std::string large(3'000'000, 'x');
  large[1'234'567] = '\0';
  changes.push_back(Put("plan", large));
  ASSERT_TRUE(Open()->Commit(changes).ok());
  std::unique_ptr<Store> store = Open();
  EXPECT_EQ(store->Scan("rank/")->size(), 400u);
  EXPECT_EQ((*store->Scan("plan"))[0].second, large);
  // A shorter value leaves nothing of the longer one behind.
  ASSERT_TRUE(store->Commit(std::vector<Change>{Erase("rank/"), Put("plan", "short")}).ok());
  store.reset();
  EXPECT_THAT(*Open()->Scan(""), ElementsAre(Pair("plan", "short")));
}

class EtcdStoreTest : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(Etcd, EtcdStoreTest, ::testing::Values(Kind::kEtcd));

TEST_P(EtcdStoreTest, WhoLeadsNoMoreWritesNothingAndIsToldSo) {
  const std::unique_ptr<Store> old = *OpenEtcd(Lead());
  ASSERT_TRUE(old->Commit(std::vector<Change>{Put("k", "old")}).ok());
  const std::unique_ptr<Store> young = *OpenEtcd(Lead());
  const absl::Status refused = old->Commit(std::vector<Change>{Put("k", "late")});
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("another coordinator leads"));
  EXPECT_EQ(old->Commit(std::vector<Change>{Put("k", "later")}).code(),
            absl::StatusCode::kUnavailable);
  ASSERT_TRUE(young->Commit(std::vector<Change>{Put("j", "new")}).ok());
  EXPECT_THAT(*Open()->Scan(""), ElementsAre(Pair("j", "new"), Pair("k", "old")));
}

TEST_P(EtcdStoreTest, ALargeCommitCutAnywhereIsWholeOrNotAtAll) {
  // Seven transactions a commit; another takes the lead as soon as the i-th trace of it is seen.
  const auto generation = [](const std::string& value) {
    std::vector<Change> changes;
    for (int i = 0; i < 150; ++i) changes.push_back(Put("k" + std::to_string(1000 + i), value));
    return changes;
  };
  ASSERT_TRUE(Open()->Commit(generation("0")).ok());
  std::string before = "0";
  for (const char* trace : {"redo/000000", "redo/000001", "redo/commit", "kv/k1000", "kv/k1149"}) {
    const std::string after = std::string("after ") + trace;
    const std::unique_ptr<Store> store = Open();
    absl::Status committed;
    std::thread writer([&] { committed = store->Commit(generation(after)); });
    const auto etcd = Etcd().Stub();
    const bool value = std::string(trace).starts_with("kv/");
    const std::string key = prefix_ + trace +
                            (value ? std::string("\0"
                                                 "000000",
                                                 7)
                                   : "");
    const bool seen = Eventually(
        [&] {
          const auto now = etcd->Get(key);
          return now.ok() && (value ? now->value == after : now->create_revision != 0);
        },
        std::chrono::milliseconds(200));
    const EtcdCondition fence = Lead();
    writer.join();
    const std::unique_ptr<Store> next = *OpenEtcd(fence);
    const auto pairs = *next->Scan("");
    ASSERT_EQ(pairs.size(), 150u);
    const std::string now = pairs[0].second;
    for (const auto& [name, held] : pairs) EXPECT_EQ(held, now) << name << " " << trace;
    EXPECT_TRUE(now == before || now == after) << now;
    if (committed.ok()) {
      EXPECT_EQ(now, after);
    }
    if (seen && value) {
      EXPECT_EQ(now, after) << "it held before the first value changed";
    }
    before = now;
  }
  EXPECT_TRUE(Etcd().Stub()->Scan(prefix_ + "redo/")->empty());
}

TEST_P(EtcdStoreTest, APrefixOfSomethingElseIsRefused) {
  ASSERT_TRUE(
      Etcd()
          .Stub()
          ->Transact({prefix_ + "format", 0}, {{EtcdOp::Kind::kPut, prefix_ + "format", "77", 0}})
          ->done);
  const absl::Status refused = OpenEtcd(Lead()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("'77'"));
}

class SqliteStoreTest : public StoreTest {};
INSTANTIATE_TEST_SUITE_P(File, SqliteStoreTest, ::testing::Values(Kind::kSqlite));

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
