#include "server/peer/exchange_layout.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"
#include "server/peer/key_parts.h"

namespace muond {
namespace {

TEST(ExchangeLayoutTest, PartsLieApartAndAVoteIsOnePiece) {
  MemberView view;
  view.count = 2;
  view.member_of_rank = {0, 1, 0};
  view.owner_of_item = {0, 1, 1};
  const ExchangeItem items[] = {{1, 100}, {2, 4096}, {1, 8}};
  const ExchangeLayout layout = ExchangeLayout::Lay(view, 256, 168, items);

  EXPECT_EQ(layout.vote(0).ranks, (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(layout.vote(1).runs, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(layout.vote(1).bytes, 256u + 3 * 168);
  std::vector<std::pair<uint64_t, uint64_t>> parts;  // begin, end
  for (uint32_t rank = 0; rank < 3; ++rank)
    parts.emplace_back(layout.sheet(rank), layout.sheet(rank) + 256);
  for (uint32_t run = 0; run < 4; ++run)
    parts.emplace_back(layout.measurement(run), layout.measurement(run) + 168);
  for (uint32_t item = 0; item < 3; ++item) {
    parts.emplace_back(layout.filled(item), layout.filled(item) + 8);
    parts.emplace_back(layout.parameter(item),
                       layout.parameter(item) + items[item].parameter_bytes);
    EXPECT_EQ(layout.parameter(item) % 64, 0u);
  }
  std::sort(parts.begin(), parts.end());
  for (size_t i = 1; i < parts.size(); ++i) EXPECT_LE(parts[i - 1].second, parts[i].first);
  EXPECT_LE(parts.back().second, layout.bytes());
  EXPECT_GE(layout.sheet(1), layout.vote(1).at);
  EXPECT_LE(layout.measurement(3) + 168, layout.vote(1).at + layout.vote(1).bytes);
}

TEST(KeyPartsTest, AKeyComesTogetherInAnyOrderAndTwice) {
  const std::string key = "a key of some bytes, and not a multiple of 8";
  KeyParts parts;
  const uint32_t count = KeyPartCount(key), size = static_cast<uint32_t>(key.size());
  for (uint32_t part = count; part-- > 1;) {
    EXPECT_FALSE(parts.Add(size, part, KeyPart(key, part)));
    EXPECT_FALSE(parts.Add(size, part, KeyPart(key, part)));
  }
  EXPECT_TRUE(parts.Add(size, 0, KeyPart(key, 0)));
  EXPECT_EQ(parts.key(), key);
  EXPECT_FALSE(parts.Add(size, count, 1));
  EXPECT_FALSE(parts.Add(4096, 0, 1));
  EXPECT_EQ(parts.key(), key);
  EXPECT_FALSE(parts.Add(16, 0, 1));  // another key: from the beginning
}

}  // namespace
}  // namespace muond
