#include "server/keeper/slab_info.h"

namespace muond {

KeeperMessage ToMessage(KeeperVerb verb, const SlabInfo& info) {
  KeeperMessage message;
  message.verb = verb;
  message.slab = info.slab;
  message.size_bytes = info.size_bytes;
  message.job = info.job;
  message.session = info.session;
  message.kind = info.kind;
  message.rank = info.rank;
  message.device = info.device;
  SetLabel(message, info.label);
  return message;
}

SlabInfo ToSlabInfo(const KeeperMessage& message) {
  SlabInfo info;
  info.slab = message.slab;
  info.kind = message.kind;
  info.size_bytes = message.size_bytes;
  info.job = message.job;
  info.session = message.session;
  info.rank = message.rank;
  info.device = message.device;
  info.label = std::string(LabelOf(message));
  return info;
}

}  // namespace muond
