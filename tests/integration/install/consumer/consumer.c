#include <muond.h>
#include <stdio.h>

int main(void) {
  muond_manifest_options options = MUOND_INIT(muond_manifest_options);
  options.job = "consumer";
  options.world_size = 1;
  options.buckets = 1;
  muond_manifest* manifest = NULL;
  if (muond_manifest_create(&options, &manifest) != MUOND_OK) return 1;
  muond_manifest_destroy(manifest);
  printf("%s\n", muond_version());
  return 0;
}
