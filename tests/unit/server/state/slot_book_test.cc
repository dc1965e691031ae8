#include "server/state/slot_book.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace muond {
namespace {

struct Fixture {
  explicit Fixture(uint32_t items)
      : layout(*StateLayout::Lay(
            std::vector<ItemNeed>(items, NeedOf(StateRule::kMuon, 0, {{4, 4, 4}})), 1)),
        memory(Journal::SizeBytes(items) / 8),
        journal(memory.data(), items) {
    journal.Format(1, 1, layout);
  }
  StateLayout layout;
  std::vector<uint64_t> memory;
  Journal journal;
};

TEST(SlotBookTest, AnItemIsNeverStagedIntoASlotThatAWordNames) {
  Fixture f(9);
  SlotBook book(f.layout, f.journal);
  std::mt19937 random(7);
  for (uint64_t step = 1; step < 200; ++step) {
    for (uint32_t item = 0; item < 9; ++item) {
      if (random() % 3 == 0) continue;  // no gradient
      const auto staged = book.Stage(item, step);
      ASSERT_TRUE(staged.has_value());
      for (uint32_t other = 0; other < 9; ++other) EXPECT_NE(staged->slot, book.word(other).slot);
      book.Flipped(item);
      EXPECT_EQ(book.word(item), *staged);
      f.journal.word_cell(item).store(staged->Pack());
      book.CopiedOut(item);
    }
  }
}

TEST(SlotBookTest, WithoutASpareNothingMoreIsStagedUntilAFlip) {
  Fixture f(9);  // two spares
  SlotBook book(f.layout, f.journal);
  EXPECT_EQ(book.Room(0), 2u);
  ASSERT_TRUE(book.Stage(0, 1).has_value());
  ASSERT_TRUE(book.Stage(1, 1).has_value());
  EXPECT_FALSE(book.Stage(2, 1).has_value());
  book.Flipped(0);
  EXPECT_FALSE(book.Stage(2, 1).has_value()) << "its place still waits for the copy-out";
  book.CopiedOut(0);
  EXPECT_TRUE(book.Stage(2, 1).has_value());
}

TEST(SlotBookTest, ABookFromTheSameWordsHasTheSameFreeSlots) {
  Fixture f(9);
  SlotBook book(f.layout, f.journal);
  for (uint32_t item = 0; item < 9; item += 2) {
    f.journal.word_cell(item).store(book.Stage(item, 1)->Pack());
    book.Flipped(item);
    book.CopiedOut(item);
  }
  SlotBook successor(f.layout, f.journal);
  std::set<uint32_t> mine, theirs;
  for (uint32_t item = 0; item < 2; ++item) {
    mine.insert(book.Stage(item, 2)->slot);
    theirs.insert(successor.Stage(item, 2)->slot);
  }
  EXPECT_EQ(mine, theirs);
}

}  // namespace
}  // namespace muond
